//! `pgwraith plan`, and what it rests on: what PostgreSQL does to an empty clone is what it does to the table.

mod cases;

use std::collections::BTreeSet;

use pgwraith::catalog;
use pgwraith::change::Request;
use pgwraith::change::trial::{self, Lock, Trial, Way};
use pgwraith::conninfo::ConnInfo;
use pgwraith::demo::cluster::ServerBinaries;
use pgwraith::pg::{Connector, Session};
use tokio_postgres::Client;

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
        }
    }
}

async fn trial(session: &Session, alter: &str) -> pgwraith::error::Result<Trial> {
    let oid = catalog::find(session, "s.t").await?;
    let source = catalog::read(session, oid).await?.unwrap();
    let request = Request { alters: vec![alter.to_owned()], maps: vec![] };
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
    };
    exec(client, "ROLLBACK").await;
    Ok(done)
}

async fn make_ground(shop: &Shop, before: &str) {
    let again =
        "DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; ALTER ROLE CURRENT_USER RESET timezone;";
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
    for case in cases::CASES.iter().filter(|case| case.since <= major) {
        make_ground(&shop, case.before).await;
        // What is set for the role holds for new sessions.
        let (ours, client) = (session(&shop).await, shop.session().await);
        let what = format!("{}; {}", case.before, case.alter);
        let trial = match trial(&ours, case.alter).await {
            Ok(trial) => trial,
            Err(e) => {
                wrong.push(format!("{what}: {e}"));
                continue;
            }
        };
        let done = match done(&client, &other, case.alter).await {
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
