//! A partitioned table: what is told of a change is what PostgreSQL does to partitions that are filled.

use std::collections::BTreeMap;

use pgwraith::catalog;
use pgwraith::change::trial::Way;
use pgwraith::demo::cluster::ServerBinaries;
use tokio_postgres::Client;

use super::{EVERYTHING, plan, session, trial};
use crate::harness::{self, ANY_WAY};
use crate::scene::{Shop, exec, shop, value};
use Way::{Careful, Instant, ShadowCopy};

/// Five thousand rows; a partition is divided again, and each has something of its own.
const GROUND: &str = "CREATE SCHEMA s; CREATE DOMAIN s.anyint AS int; CREATE TABLE s.p (id int PRIMARY KEY); INSERT INTO s.p SELECT generate_series(1, 5000); \
    CREATE TABLE s.t (id int NOT NULL, k int NOT NULL, v text, a int, w varchar(20), u varchar(20), n numeric(10,2), f int, g int, PRIMARY KEY (id, k)) \
      PARTITION BY RANGE (k); \
    CREATE TABLE s.t_1 PARTITION OF s.t FOR VALUES FROM (0) TO (1000); \
    CREATE TABLE s.t_2 PARTITION OF s.t FOR VALUES FROM (1000) TO (10000) PARTITION BY HASH (id); \
    CREATE TABLE s.t_20 PARTITION OF s.t_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
    CREATE TABLE s.t_21 PARTITION OF s.t_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
    INSERT INTO s.t SELECT i, i, 'v', i, 'w', 'u', i, i, i FROM generate_series(1, 5000) i; \
    CREATE INDEX t_v ON s.t (v); ALTER TABLE s.t_1 ADD CONSTRAINT only1 CHECK (a > 0); \
    ALTER TABLE s.t_2 ADD CONSTRAINT only2 CHECK (g > 0), ADD CONSTRAINT \"only 3\" CHECK (u <> ''); ALTER TABLE s.t_1 ADD CONSTRAINT only2 CHECK (g <> 0); \
    CREATE INDEX own_w ON s.t_21 (lower(w)); CREATE UNIQUE INDEX own_n ON s.t_1 (n); \
    ALTER TABLE s.t_20 ADD FOREIGN KEY (f) REFERENCES s.p";

const CASES: &[(Way, &str)] = &[
    (Instant, "ADD COLUMN x int DEFAULT 5"),
    (Instant, "ADD COLUMN x text NOT NULL DEFAULT ''"),
    (Instant, "RENAME COLUMN a TO b"),
    (Instant, "DROP COLUMN a"),
    (Instant, "DROP COLUMN w, ADD COLUMN x int"),
    (Instant, "ALTER COLUMN a SET DEFAULT 3"),
    (Instant, "ALTER COLUMN n TYPE numeric(12,2)"),
    (Instant, "ALTER COLUMN v SET STATISTICS 500"),
    (Instant, "ADD CONSTRAINT a_pos CHECK (a > 0) NOT VALID"),
    (Instant, "DROP CONSTRAINT t_pkey"),
    (Instant, "SET TABLESPACE elsewhere"),
    (ShadowCopy, "SET TABLESPACE elsewhere, ALTER COLUMN v TYPE varchar"),
    (Careful, "ADD CONSTRAINT a_pos CHECK (a > 0)"),
    (Careful, "ALTER COLUMN a SET NOT NULL"),
    (Careful, "ADD CONSTRAINT k_id UNIQUE (k, id)"),
    (Careful, "ADD COLUMN x uuid DEFAULT gen_random_uuid()"),
    (Careful, "ADD CONSTRAINT a_pos CHECK (a > 0), ALTER COLUMN n TYPE numeric(12,2)"),
    // Indexes of partitions are not taken over.
    (ShadowCopy, "ALTER COLUMN v TYPE varchar"),
    (ShadowCopy, "ADD CONSTRAINT a_pos CHECK (a > 0), ALTER COLUMN v TYPE varchar"),
    // What only partitions have.
    (ShadowCopy, "ALTER COLUMN a TYPE s.anyint"),
    (ShadowCopy, "ALTER COLUMN g TYPE s.anyint"),
    (ShadowCopy, "ALTER COLUMN u TYPE varchar(80)"),
    (ShadowCopy, "ALTER COLUMN w TYPE varchar(80)"),
    (ShadowCopy, "ALTER COLUMN n TYPE bigint"),
];

/// PostgreSQL refuses them in place; what of that a copy makes is the copy's to say.
const REFUSED: &[(&str, &str)] = &[
    ("ALTER COLUMN k TYPE bigint", "part of the partition key of relation \"t\""),
    ("ALTER COLUMN id TYPE bigint", "part of the partition key of relation \"t_2\""),
    ("DROP COLUMN k", "partition key"),
    ("DROP COLUMN id", "partition key"),
    ("ADD COLUMN x int, DROP COLUMN k", "partition key"),
    ("ADD UNIQUE (a)", "must include all partitioning columns"),
    ("ADD CONSTRAINT a_pos CHECK (a > 0) NO INHERIT", "NO INHERIT"),
    // Another than that of a partition.
    ("ADD CONSTRAINT only1 CHECK (a > -1) NOT VALID", "only1"),
];

/// What no copy makes either.
const IMPOSSIBLE: &[(u32, &str)] = &[
    (15, "SET (fillfactor = 70)"),
    (15, "ADD COLUMN x int, SET (fillfactor = 70)"),
    (15, "CLUSTER ON t_pkey"),
    (18, "SET LOGGED"),
];

async fn table() -> Shop {
    let shop = shop().await;
    shop.exec(GROUND).await;
    shop
}

#[derive(Debug, PartialEq)]
struct Worked {
    rewritten: bool,
    read: bool,
    built: bool,
}

/// Files of the partitions and of their indexes; each may be another's later on.
const FILES: &str = "SELECT array_agg(concat_ws(' ', c.relfilenode, c.relkind)) FROM pg_class c \
    WHERE c.relnamespace = 's'::regnamespace AND c.relkind IN ('r', 'i') AND c.relname <> 'p'";
const ROWS_READ: &str = "SELECT COALESCE(sum(pg_stat_get_xact_tuples_returned(c.oid)), 0)::int8 FROM pg_class c \
    WHERE c.relnamespace = 's'::regnamespace AND c.relkind IN ('r', 'i') AND c.relname <> 'p'";

/// What PostgreSQL does to the filled partitions, undone again.
async fn worked(client: &Client, alter: &str) -> Result<Worked, tokio_postgres::Error> {
    exec(client, "BEGIN").await;
    let was: Vec<String> = value(client, FILES).await;
    let read: i64 = value(client, ROWS_READ).await;
    if let Err(e) = client.batch_execute(&format!("ALTER TABLE s.t {alter}")).await {
        exec(client, "ROLLBACK").await;
        return Err(e);
    }
    let now: Vec<String> = value(client, FILES).await;
    let new = |kind: &str| now.iter().any(|file| file.ends_with(kind) && !was.contains(file));
    let done = Worked {
        rewritten: new(" r"),
        read: value::<i64>(client, ROWS_READ).await - read >= 900,
        built: new(" i"),
    };
    exec(client, "ROLLBACK").await;
    Ok(done)
}

#[tokio::test]
async fn the_divided_clone_is_treated_as_the_table_would_be() {
    let shop = table().await;
    super::make_tablespace(&shop).await;
    let ours = session(&shop).await;
    let mut wrong = Vec::new();
    let before: Vec<String> = shop.value(EVERYTHING).await;
    for (way, alter) in CASES {
        let trial = match trial(&ours, alter).await {
            Ok(trial) => trial,
            Err(e) => {
                wrong.push(format!("{alter}: {e}"));
                continue;
            }
        };
        let seen = &trial.observed;
        let told = Worked {
            rewritten: seen.rewritten,
            read: seen.scans > 0,
            built: !seen.built.is_empty(),
        };
        if trial.verdict.way != *way || seen.no_way.is_some() {
            wrong.push(format!("{alter}: {:?}, not {way:?}", trial.verdict));
        }
        if seen.built.iter().any(|name| name.starts_with("pgwraith")) {
            wrong.push(format!("{alter}: {:?}", seen.built));
        }
        match worked(&shop.client, alter).await {
            // A table that is written anew is read, whatever the statistics say.
            Ok(done)
                if told == Worked { read: done.read || told.read && told.rewritten, ..done } => {}
            done => wrong.push(format!("{alter}: told {told:?}, but {done:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(shop.value::<Vec<String>>(EVERYTHING).await, before);
}

#[tokio::test]
async fn what_postgresql_refuses_of_a_partitioned_table_is_not_in_place() {
    let shop = table().await;
    let ours = session(&shop).await;
    for (alter, told) in REFUSED {
        let verdict = trial(&ours, alter).await.unwrap().verdict;
        assert_eq!(verdict.way, ShadowCopy, "{alter}: {verdict:?}");
        assert!(verdict.why.contains(told), "{alter}: {verdict:?}");
        assert!(worked(&shop.client, alter).await.is_err(), "{alter}");
    }
    let major = ServerBinaries::find().unwrap().major();
    for (_, alter) in IMPOSSIBLE.iter().filter(|(since, _)| *since <= major) {
        let refused = plan(&shop, &["--alter", alter]).await.expect_code(2);
        assert!(refused.stderr.contains("partitioned table"), "{alter}: {refused}");
        let run = ["run", "s.t", "-d", &shop.dsn, "--alter", alter, ANY_WAY];
        let refused = harness::run(run).await.expect_code(2);
        assert!(refused.stderr.contains("partitioned table"), "{alter}: {refused}");
        assert!(worked(&shop.client, alter).await.is_err(), "{alter}");
    }
    let begun = "SELECT to_regnamespace('pgwraith') IS NOT NULL";
    assert!(!shop.value::<bool>(begun).await, "no copy was begun");
}

/// What has two ends cannot be tried: its column is not retyped in place, another is.
#[tokio::test]
async fn what_cannot_be_tried_of_a_partition_is_no_instant_change() {
    let shop = table().await;
    let ours = session(&shop).await;
    let keyed = trial(&ours, "ALTER COLUMN f TYPE s.anyint").await.unwrap();
    assert_eq!(keyed.verdict.way, ShadowCopy);
    assert!(
        keyed.verdict.why.contains("t_f_fkey") || keyed.verdict.why.contains("t_20_f_fkey"),
        "{:?}",
        keyed.verdict
    );
    let dropped = trial(&ours, "DROP COLUMN f").await.unwrap();
    assert_eq!(dropped.verdict.way, Instant);
    let planned = plan(&shop, &["--alter", "ALTER COLUMN k TYPE bigint"]).await;
    let why = planned.json()["why"].as_str().unwrap().to_owned();
    assert!(why.starts_with("PostgreSQL refuses that in place"), "{why}");
}

/// One that the table's index is not made of, because that is not valid, is a partition's own.
#[tokio::test]
async fn what_partitions_have_of_their_own_is_known() {
    let shop = table().await;
    shop.exec(
        "CREATE INDEX half ON ONLY s.t (a); CREATE INDEX half_1 ON s.t_1 (a); ALTER INDEX s.half ATTACH PARTITION s.half_1; \
         ALTER TABLE s.t_21 ADD CONSTRAINT again CHECK (a > 0)",
    )
    .await;
    let ours = session(&shop).await;
    let root = catalog::find(&ours, "s.t").await.unwrap();
    let own = catalog::own_of_parts(&ours, root).await.unwrap();
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    named.extend(own.iter().map(|own| (own.name.as_str(), own.definition.as_str())));
    let names: Vec<&str> = named.keys().copied().collect();
    assert_eq!(
        names,
        ["again", "half_1", "only 3", "only2", "own_n", "own_w", "t_20_f_fkey"],
        "of the like checks one: {own:?}"
    );
    assert_eq!(named["own_w"], "USING btree (lower((w)::text))");
}

#[tokio::test]
async fn inheritance_is_refused_by_name() {
    let shop = shop().await;
    shop.exec("CREATE TABLE par (a int); CREATE TABLE r (id int PRIMARY KEY) INHERITS (par); CREATE TABLE lone (id int PRIMARY KEY, a int)")
        .await;
    for (table, alter) in [("r", "NO INHERIT par"), ("lone", "ADD COLUMN x int, INHERIT par")] {
        let given = [table, "-d", &shop.dsn, "--alter", alter];
        let plan = ["plan"].into_iter().chain(given);
        let run = ["run"].into_iter().chain(given).chain([ANY_WAY]);
        for command in [plan.collect::<Vec<_>>(), run.collect()] {
            let refused = harness::run(command.clone()).await.expect_code(2);
            for told in ["does not change inheritance", "lock_timeout"] {
                assert!(refused.stderr.contains(told), "{command:?}: {refused}");
            }
        }
    }
}
