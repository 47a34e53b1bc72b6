//! `pgwraith plan`, and what it rests on: what PostgreSQL does to an empty clone is what it does to the table.

mod cases;
mod copies;
mod divided;
mod notes;
mod references;

use std::collections::{BTreeMap, BTreeSet};

use pgwraith::catalog;
use pgwraith::change::Request;
use pgwraith::change::trial::{self, Lock, Other, Trial, Way};
use pgwraith::conninfo::ConnInfo;
use pgwraith::demo::cluster::ServerBinaries;
use pgwraith::pg::{Connector, Session};
use tokio_postgres::Client;

use crate::harness::{self, Output};
use crate::scene::{Shop, exec, shop, value};

/// What PostgreSQL did to the filled table.
#[derive(Debug, PartialEq)]
struct Done {
    rewritten: bool,
    read: bool,
    built: BTreeSet<String>,
    lock: Option<Lock>,
    keeps_out_reads: bool,
    keeps_out_writes: bool,
    /// The strongest lock on each other table that writers of it notice.
    others: BTreeMap<String, Lock>,
}

fn noticed(others: &[Other]) -> BTreeMap<String, Lock> {
    let noticed = others.iter().filter(|other| other.lock.blocks_writes());
    noticed.map(|other| (other.table.clone(), other.lock)).collect()
}

impl Done {
    /// What the trial says that it will do.
    fn told(trial: &Trial) -> Done {
        let seen = &trial.observed;
        Done {
            rewritten: seen.rewritten,
            read: seen.scans > 0,
            built: seen.built.iter().cloned().collect(),
            lock: Some(seen.lock),
            keeps_out_reads: seen.lock.blocks_reads(),
            keeps_out_writes: seen.lock.blocks_writes(),
            others: noticed(&seen.others),
        }
    }
}

async fn trial(session: &Session, alter: &str) -> pgwraith::error::Result<Trial> {
    let oid = catalog::find(session, "s.t").await?;
    let source = catalog::read(session, oid).await?.unwrap();
    let request = Request { alters: vec![alter.to_owned()], ..Request::default() };
    trial::observe(session, &source, &request).await
}

async fn session(shop: &Shop) -> Session {
    let info = ConnInfo::resolve(Some(&shop.dsn)).unwrap();
    Connector::new(info).session("trial").await.unwrap()
}

const FILES: &str = "SELECT array_agg(c.relname || ' ' || pg_relation_filenode(c.oid) ORDER BY 1) FROM pg_class c \
    WHERE c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 's.t'::regclass)";
/// Rows that were read of the table, in whatever order.
const ROWS_READ: &str = "SELECT sum(pg_stat_get_xact_tuples_returned(c.oid))::int8 FROM pg_class c \
    WHERE c.oid = 's.t'::regclass OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 's.t'::regclass)";

/// What a session has locked of others, quoted and qualified.
const OTHERS: &str = "SELECT format('%s.%s', to_json(nspname::text), to_json(relname::text)), mode FROM pg_locks l \
    JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = relnamespace \
    WHERE pid = $1 AND c.oid <> $2 AND nspname = 's' AND relkind IN ('r', 'p')";

/// Alters the filled table for real, and has `other` look at it before COMMIT. The table is as it was.
async fn done(client: &Client, other: &Client, alter: &str) -> Result<Done, tokio_postgres::Error> {
    let table: u32 = value(client, "SELECT 's.t'::regclass::oid").await;
    let pid: i32 = value(client, "SELECT pg_backend_pid()").await;
    exec(client, "BEGIN").await;
    let file = "SELECT pg_relation_filenode('s.t')";
    let (was, files): (u32, Vec<String>) = (value(client, file).await, value(client, FILES).await);
    let read: i64 = value(client, ROWS_READ).await;
    if let Err(e) = client.batch_execute(&format!("ALTER TABLE s.t {alter}")).await {
        exec(client, "ROLLBACK").await;
        return Err(e);
    }
    let now: Vec<String> = value(client, FILES).await;
    let number = |file: &String| file.rsplit(' ').next().unwrap_or_default().to_owned();
    let known: BTreeSet<String> = files.iter().map(number).collect();
    let built = now.iter().filter(|file| !known.contains(&number(file)));
    let modes: Vec<String> = value(
        other,
        &format!("SELECT array_agg(mode) FROM pg_locks WHERE pid = {pid} AND relation = {table}"),
    )
    .await;
    let others = other.query(OTHERS, &[&pid, &table]).await.unwrap();
    let mut strongest = BTreeMap::new();
    for row in others {
        let Some(lock) = Lock::parse(row.get(1)).filter(|lock| lock.blocks_writes()) else {
            continue;
        };
        let known = strongest.entry(row.get(0)).or_insert(lock);
        *known = lock.max(*known);
    }
    let lets = async |mode: &str| {
        let lock = format!("BEGIN; LOCK TABLE ONLY s.t IN {mode} MODE NOWAIT");
        let taken = other.batch_execute(&lock).await.is_ok();
        exec(other, "ROLLBACK").await;
        taken
    };
    let done = Done {
        rewritten: was != value::<u32>(client, file).await,
        read: value::<i64>(client, ROWS_READ).await - read >= 3000,
        built: built.filter_map(|file| Some(file.rsplit_once(' ')?.0.to_owned())).collect(),
        lock: modes.iter().filter_map(|mode| Lock::parse(mode)).max(),
        keeps_out_reads: !lets("ACCESS SHARE").await,
        keeps_out_writes: !lets("ROW EXCLUSIVE").await,
        others: strongest,
    };
    exec(client, "ROLLBACK").await;
    Ok(done)
}

async fn make_ground(shop: &Shop, before: &str) {
    let again =
        "DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; ALTER ROLE CURRENT_USER RESET ALL;";
    shop.exec(&format!("{again} {} {before}", cases::GROUND)).await;
}

async fn make_tablespace(shop: &Shop) {
    shop.exec("SET allow_in_place_tablespaces = on").await;
    shop.exec("CREATE TABLESPACE elsewhere LOCATION ''").await;
}

#[tokio::test]
async fn the_clone_is_treated_as_the_table_would_be() {
    let shop = shop().await;
    make_tablespace(&shop).await;
    let major = ServerBinaries::find().unwrap().major();
    let other = shop.session().await;
    let mut wrong = Vec::new();
    let mut cases: Vec<_> = cases::CASES.iter().filter(|case| case.since <= major).collect();
    // Whatever is done is undone again: the ground serves all that begin on it.
    cases.sort_by_key(|case| case.before);
    let mut ground = None;
    let mut sessions = None;
    for case in cases {
        if ground != Some(case.before) {
            make_ground(&shop, case.before).await;
            ground = Some(case.before);
            // What is set for the role holds for new sessions.
            sessions = Some((session(&shop).await, shop.session().await));
        }
        let (ours, client) = sessions.as_ref().unwrap();
        let what = format!("{}; {}", case.before, case.alter);
        let trial = match trial(ours, case.alter).await {
            Ok(trial) => trial,
            Err(e) => {
                wrong.push(format!("{what}: {e}"));
                continue;
            }
        };
        let done = match done(client, &other, case.alter).await {
            Ok(done) => done,
            Err(e) => {
                wrong.push(format!("{what}: PostgreSQL refuses it: {e:?}"));
                continue;
            }
        };
        let told = Done::told(&trial);
        // Of an index that is dropped the rows that were read through it are not counted any more.
        let same = Done { read: done.read || told.read && told.rewritten, ..done };
        if told != same {
            wrong.push(format!("{what}: told {told:?}\n    but done {same:?}"));
        }
        if trial.verdict.way != case.way {
            wrong.push(format!("{what}: {:?}, not {:?}", trial.verdict, case.way));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_only_an_empty_table_takes_is_never_instant() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    let (ours, other) = (session(&shop).await, shop.session().await);
    for alter in cases::REFUSED {
        let way = trial(&ours, alter).await.unwrap().verdict.way;
        assert!(way != Way::Instant && way != Way::Online, "{alter}: {way:?}");
        assert!(done(&shop.client, &other, alter).await.is_err(), "{alter}");
    }
}

/// Columns, constraints and indexes as PostgreSQL prints them. Before 18 the parts of a foreign key to a partitioned
/// table stay NOT VALID when that is proven.
const SHAPE: &str = "SELECT array_agg(x ORDER BY x) FROM ( \
    SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)) AS x \
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
      WHERE attrelid = 's.t'::regclass AND attnum > 0 AND NOT attisdropped \
    UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = 's.t'::regclass AND conparentid = 0 \
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 's.t'::regclass AND indisvalid) d";

#[tokio::test]
async fn careful_steps_come_to_the_same() {
    let shop = shop().await;
    let major = ServerBinaries::find().unwrap().major();
    let other = shop.session().await;
    let careful = |case: &&cases::Case| case.way == Way::Careful && case.since <= major;
    for case in cases::CASES.iter().filter(careful) {
        make_ground(&shop, case.before).await;
        // What is set for the role holds for new sessions.
        let client = shop.session().await;
        exec(&client, &format!("ALTER TABLE s.t {}", case.alter)).await;
        let wanted: Vec<String> = shop.value(SHAPE).await;
        make_ground(&shop, case.before).await;
        let steps = trial(&session(&shop).await, case.alter).await.unwrap().steps;
        assert!(steps.len() > 1, "{}: {steps:?}", case.alter);
        for step in &steps {
            // Those that may take long keep nobody out; what PostgreSQL really does for the others is nothing.
            assert!(step.takes.is_empty() || !step.lock.blocks_writes(), "{step:?}");
            let clauses = step.sql.strip_prefix("ALTER TABLE \"s\".\"t\" ");
            if let Some(clauses) = clauses {
                let done = done(&client, &other, clauses).await.unwrap();
                assert_eq!(done.lock, Some(step.lock), "{step:?}");
                assert_eq!(done.others, noticed(&step.others), "{step:?}");
                assert_eq!(
                    (done.rewritten, done.read),
                    (false, !step.takes.is_empty()),
                    "{step:?}"
                );
            }
            shop.exec(&step.sql).await;
        }
        assert_eq!(shop.value::<Vec<String>>(SHAPE).await, wanted, "{}: {steps:?}", case.alter);
    }
}

/// A column without a value for rows that are there has them filled by the operator.
#[tokio::test]
async fn what_rows_must_be_given_is_left_to_the_operator() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    let steps = trial(&session(&shop).await, "ADD COLUMN n int NOT NULL").await.unwrap().steps;
    let (add, fill) = (&steps[0], &steps[1]);
    assert_eq!(add.sql, "ALTER TABLE \"s\".\"t\" ADD COLUMN \"n\" integer");
    assert!(fill.sql.starts_with("UPDATE \"s\".\"t\" SET \"n\" = …"), "{fill:?}");
    assert!(steps.last().unwrap().sql.contains("CONSTRAINT"), "{steps:?}");
}

/// Everything that the database has, and by which transaction.
const EVERYTHING: &str = "SELECT array_agg(x ORDER BY x) FROM ( \
    SELECT concat_ws(' ', 'class', oid, xmin, relname, relfilenode) AS x FROM pg_class \
    UNION ALL SELECT concat_ws(' ', 'schema', oid, xmin) FROM pg_namespace \
    UNION ALL SELECT concat_ws(' ', 'attribute', attrelid, attnum, xmin) FROM pg_attribute \
    UNION ALL SELECT concat_ws(' ', 'constraint', oid, xmin) FROM pg_constraint \
    UNION ALL SELECT concat_ws(' ', 'publication', oid, xmin) FROM pg_publication \
    UNION ALL SELECT concat_ws(' ', 'slot', slot_name) FROM pg_replication_slots \
    UNION ALL SELECT concat_ws(' ', 'trigger', oid, xmin) FROM pg_trigger) d";

async fn plan(shop: &Shop, change: &[&str]) -> Output {
    let given = ["plan", "s.t", "-d", &shop.dsn, "--json"];
    let all: Vec<&str> = given.iter().chain(change).copied().collect();
    harness::run(all).await
}

#[tokio::test]
async fn every_way_is_told_and_nothing_is_changed() {
    let shop = shop().await;
    make_ground(&shop, KID).await;
    let before: Vec<String> = shop.value(EVERYTHING).await;
    let add = plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(0);
    assert_eq!(add.json()["way"], "instant", "{add}");
    assert_eq!(add.json()["in_place"]["observed"]["lock"], "access_exclusive");
    assert!(add.json()["copy"].is_object(), "the other way is told too: {add}");

    let check = plan(&shop, &["--alter", "ADD CHECK (d > 0)"]).await.expect_code(0);
    assert_eq!((&check.json()["way"], steps(&check)), (&"careful".into(), 2), "{check}");

    let widened = plan(&shop, &["--alter", "ALTER COLUMN id TYPE bigint"]).await.expect_code(0);
    assert_eq!(widened.json()["way"], "shadow_copy", "{widened}");
    let copy = &widened.json()["copy"];
    let all = copy.to_string();
    for told in [
        "CREATE PUBLICATION",
        "CREATE_REPLICATION_SLOT",
        "CREATE TABLE \\\"s\\\".\\\"t_v2\\\"",
        "INSERT INTO",
        "CREATE UNIQUE INDEX",
        "ALTER TABLE \\\"s\\\".\\\"t\\\" RENAME TO \\\"t_old\\\"",
        "VALIDATE CONSTRAINT",
        "LOCK TABLE ONLY \\\"s\\\".\\\"kid\\\"",
    ] {
        assert!(all.contains(told), "{told}: {all}");
    }
    assert!(copy["estimate"]["disk_bytes"].as_i64().unwrap() > 0);
    let clients = widened.json()["clients"].to_string();
    for told in ["cached plan", "id becomes bigint, but the column of \\\"s\\\".\\\"kid\\\""] {
        assert!(clients.contains(told), "{told}: {clients}");
    }

    let rebuilt = plan(&shop, &["--rebuild"]).await.expect_code(0);
    assert_eq!((&rebuilt.json()["way"], steps(&rebuilt)), (&"shadow_copy".into(), 0));
    let anew = plan(&shop, &["--rebuild", "--alter", "ADD COLUMN n int"]).await.expect_code(0);
    assert_eq!(anew.json()["way"], "shadow_copy", "so does run: {anew}");
    let wrong = plan(&shop, &["--alter", "ALTER COLUMN nothing TYPE bigint"]).await.expect_code(2);
    assert!(wrong.stderr.contains("nothing"), "{wrong}");
    assert_eq!(shop.value::<Vec<String>>(EVERYTHING).await, before);
}

const KID: &str = "ALTER TABLE s.kid ADD CONSTRAINT kid_t FOREIGN KEY (t_id) REFERENCES s.t";

fn steps(output: &Output) -> usize {
    output.json()["in_place"]["steps"].as_array().map_or(0, Vec::len)
}

/// What refuses a copy does not hide that none is needed.
#[tokio::test]
async fn what_refuses_a_copy_refuses_no_other_way() {
    let shop = shop().await;
    make_ground(&shop, "ALTER TABLE s.t DROP CONSTRAINT t_pkey").await;
    let add = plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(0);
    assert!(add.json()["refused"].to_string().contains("primary key"), "{add}");
    let wide = plan(&shop, &["--alter", "ALTER COLUMN a TYPE bigint"]).await.expect_code(3);
    assert!(wide.stderr.contains("primary key"), "{wide}");
    // What hangs on a column that goes is named, and not dropped with it.
    shop.exec("CREATE VIEW s.v AS SELECT b FROM s.t").await;
    let drop = plan(&shop, &["--alter", "DROP COLUMN b CASCADE"]).await.expect_code(3);
    assert!(drop.json()["why"].as_str().unwrap().contains("view"), "{drop}");
    let retyped = plan(&shop, &["--alter", "ALTER COLUMN b TYPE varchar"]).await.expect_code(3);
    assert!(retyped.json()["why"].as_str().unwrap().contains("view"), "{retyped}");
    let refused = shop.client.batch_execute("ALTER TABLE s.t ALTER COLUMN b TYPE varchar").await;
    assert!(refused.is_err(), "PostgreSQL refuses it too");
}

#[tokio::test]
async fn the_runbook_has_a_lever_for_every_phase() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    let folder = tempfile::tempdir().unwrap();
    for (n, (alter, told)) in [
        ("ADD COLUMN n int", &["pgwraith run", "--alter 'ADD COLUMN n int'"][..]),
        ("ALTER COLUMN b SET NOT NULL", &["VALIDATE CONSTRAINT", "SHARE UPDATE EXCLUSIVE"]),
        (
            "ALTER COLUMN a TYPE bigint",
            &["pgwraith abort", "pgwraith cutover", "RENAME TO", "DROP TABLE"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = folder.path().join(format!("{n}.md"));
        plan(&shop, &["--alter", alter, "--runbook", file.to_str().unwrap()]).await.expect_code(0);
        let text = std::fs::read_to_string(&file).unwrap();
        let reached = format!("'\"s\".\"t\"' -d '{}'", shop.dsn);
        for told in told.iter().chain(&["# \"s\".\"t\"", "Rollback lever", "Check", &reached]) {
            assert!(text.contains(told), "{told}:\n{text}");
        }
        // What exchanges the names is told where they are exchanged.
        if let Some(at) = text.find("SQL of \"cutover\"") {
            assert!(text.find("## 3. Cutover").is_some_and(|cutover| cutover < at), "{text}");
        }
    }
    let file = folder.path().join("secret.md");
    let secret = shop.dsn.replace("postgres@", "postgres:hunter2@");
    let given = ["plan", "s.t", "-d", &secret, "--rebuild", "--runbook", file.to_str().unwrap()];
    harness::run(given).await.expect_code(0);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("-d \"$DSN\"") && !text.contains("hunter2"), "{text}");
    let nowhere = ["--rebuild", "--runbook", "/nonexistent/runbook.md"];
    assert!(plan(&shop, &nowhere).await.expect_code(2).stderr.contains("/nonexistent"));
}
