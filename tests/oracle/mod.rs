//! A migration under sessions that do everything an application does to a table, and an oracle that
//! knows what must be there afterwards: every acknowledged token exactly as often as it was written,
//! no token of an aborted transaction, and, in every row that nobody touched after the swap, the
//! retired table's bytes.

mod script;
mod sessions;

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{self, Background};
use script::{Expected, Shape};
use sessions::{Sessions, large_transaction, note, truncate};

/// Rows before the migration.
const ROWS: u64 = 12_000;
/// Four times what it takes beside one other test; machines are busy.
const LIMIT: Duration = Duration::from_secs(150);

/// Adds to the seeds, for running the same variants differently.
const SEED: &str = "ORACLE_SEED";

/// A transaction unlike the sessions', in one of these phases or, where that is short, later.
struct Special {
    kind: Kind,
    phases: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Large,
    Truncate,
}

impl Special {
    fn choose(&self, seed: u64) -> (&'static str, Kind) {
        (self.phases[seed as usize % self.phases.len()], self.kind)
    }
}

/// One way to migrate.
struct Variant {
    shape: Shape,
    workers: u32,
    alter: &'static str,
    /// Changed keys kept in memory: others go to the database and come back, many times over. More
    /// where a large transaction changes twelve times as many, in blocks of that size: with fewer,
    /// every one of its changes would be stored by itself.
    keys: u32,
    specials: &'static [Special],
    index_build: &'static str,
    seed: u64,
}

impl Variant {
    /// Migrates under the sessions and asks the oracle.
    async fn migrate(self) {
        let seed = self.seed + std::env::var(SEED).map_or(0, |s| s.parse().unwrap());
        let cluster = harness::cluster().await;
        let dsn = harness::database(&cluster, "oracle").await;
        let client = harness::connect(&dsn).await;
        client.batch_execute(&self.shape.create()).await.unwrap();
        let source: u32 = one(&client, "SELECT 't'::regclass::oid").await;
        let sessions = Sessions::start(&dsn, self.shape, seed).await;
        let run = self.start(&dsn);
        let mut rows = Vec::new();
        for special in self.specials {
            let (phase, kind) = special.choose(seed);
            wait_for_phase_or_later(&client, phase).await;
            println!("{kind:?} transaction in or after phase {phase}");
            rows.extend(match kind {
                Kind::Large => large_transaction(&client, self.shape).await,
                Kind::Truncate => truncate(&client, self.shape).await,
            });
        }
        let output = run.finish(LIMIT).await.expect_code(0);
        sessions.some_more(200).await;
        let mut expected = sessions.stop().await;
        note(&mut expected, rows);
        for number in 1..=ROWS {
            *expected.entry(format!("i{number}")).or_default() += 1;
        }

        check_swap(&client, source).await;
        check_tokens(&client, expected, &output).await;
        check_retired(&client, &output).await;
        // What repair had to mend, the syncs had missed.
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    }

    fn start(&self, dsn: &str) -> Background {
        let (workers, keys) = (self.workers.to_string(), self.keys.to_string());
        let fixed = ["run", "t", "--json", "--chunk-rows", "100", "--chunk-time", "1ms", "-d", dsn];
        let own = ["--alter", self.alter, "--workers", &workers, "--max-keys-in-memory", &keys];
        let when = ["--index-build", self.index_build];
        Background::start(fixed.iter().chain(&own).chain(&when))
    }
}

const PHASES: [&str; 6] = ["copy", "index", "catch up", "verify", "cutover", "done"];

async fn wait_for_phase_or_later(client: &Client, wanted: &str) {
    let place = |phase: &str| PHASES.iter().position(|p| *p == phase);
    // Some rows are in the shadow then.
    let copied = "SELECT count(*) > 2 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    harness::wait_for_sql(client, "some chunks", copied).await;
    let there = async || {
        let phase = harness::phase(client, "t").await;
        phase.is_none_or(|now| place(&now) >= place(wanted))
    };
    harness::wait_until(wanted, LIMIT, there).await;
}

async fn check_swap(client: &Client, source: u32) {
    let target: u32 = one(client, "SELECT 't'::regclass::oid").await;
    assert_ne!(source, target);
    assert_eq!(one::<u32>(client, "SELECT 't_old'::regclass::oid").await, source);
    let ty = "SELECT atttypid::regtype::text FROM pg_attribute \
              WHERE attrelid = 't'::regclass AND attname = 'id'";
    assert_eq!(one::<String>(client, ty).await, "bigint");
    let touched = async |relation: u32| -> i64 {
        one(client, &format!("SELECT count(*) FROM touched WHERE relation = {relation}")).await
    };
    let (before, after) = (touched(source).await, touched(target).await);
    assert!(before > 0 && after > 0, "{before} rows changed before the swap, {after} after it");
}

async fn check_tokens(client: &Client, mut expected: Expected, output: &harness::Output) {
    expected.retain(|_, count| *count != 0);
    let mut found = Expected::new();
    for row in client.query("SELECT tokens FROM t", &[]).await.unwrap() {
        for token in row.get::<_, Option<&str>>(0).unwrap_or_default().split_whitespace() {
            *found.entry(token.to_owned()).or_default() += 1;
        }
    }
    let lost: Vec<_> = expected.iter().filter(|(t, n)| found.get(*t) != Some(*n)).take(9).collect();
    let unexpected: Vec<_> =
        found.iter().filter(|(t, n)| expected.get(*t) != Some(*n)).take(9).collect();
    assert!(
        lost.is_empty() && unexpected.is_empty(),
        "expected {lost:?}, found {unexpected:?}\n{output}"
    );
}

/// The retired table stands as it was at the swap. So rows that nobody touched in the new table
/// since then must be the same in both, byte for byte, and the same rows.
async fn check_retired(client: &Client, output: &harness::Output) {
    let differing: Vec<String> = client
        .query(
            "SELECT coalesce(o.id, n.id)::text || CASE WHEN o.id IS NULL THEN ' is only in the new table' \
               WHEN n.id IS NULL THEN ' is missing' ELSE ' differs' END \
             FROM t_old o FULL JOIN t n ON o.id = n.id \
             WHERE coalesce(o.id, n.id) NOT IN (SELECT number FROM touched WHERE relation = 't'::regclass) \
             AND ROW(o.id::bigint, o.u, o.tokens, o.note, o.big, o.n)::record \
               *<> ROW(n.id, n.u, n.tokens, n.note, n.big, n.n)::record LIMIT 9",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(differing.is_empty(), "{differing:?}\n{output}");
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

const TO_BIGINT: &str = "ALTER COLUMN id TYPE bigint";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_one_large_transaction() {
    let specials = &[Special { kind: Kind::Large, phases: &["copy"] }];
    let variant = Variant {
        shape: Shape::Int,
        workers: 1,
        alter: TO_BIGINT,
        keys: 1000,
        specials,
        index_build: "after",
        seed: 1,
    };
    variant.migrate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_of_a_table_with_a_composite_key() {
    let shape = Shape::Composite;
    let specials = &[Special { kind: Kind::Large, phases: &PHASES }];
    let variant = Variant {
        shape,
        workers: 2,
        alter: TO_BIGINT,
        keys: 1000,
        specials,
        index_build: "after",
        seed: 2,
    };
    variant.migrate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_four_workers() {
    let alter = "ALTER COLUMN id TYPE bigint, ADD COLUMN added text NOT NULL DEFAULT 'x'";
    let variant = Variant {
        shape: Shape::Int,
        workers: 4,
        alter,
        keys: 100,
        specials: &[],
        index_build: "after",
        seed: 3,
    };
    variant.migrate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_table_is_truncated() {
    let shape = Shape::Composite;
    let specials = &[
        Special { kind: Kind::Truncate, phases: &["copy"] },
        Special { kind: Kind::Truncate, phases: &["index", "catch up", "verify"] },
    ];
    let variant = Variant {
        shape,
        workers: 3,
        alter: TO_BIGINT,
        keys: 100,
        specials,
        index_build: "after",
        seed: 4,
    };
    variant.migrate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_where_the_copy_fills_unique_indexes() {
    let specials = &[Special { kind: Kind::Large, phases: &["copy"] }];
    let (shape, index_build) = (Shape::Int, "before");
    let variant =
        Variant { shape, workers: 4, alter: TO_BIGINT, keys: 1000, specials, index_build, seed: 5 };
    variant.migrate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_of_a_truncated_table_whose_copy_fills_unique_indexes() {
    let specials = &[Special { kind: Kind::Truncate, phases: &["copy"] }];
    let (shape, index_build) = (Shape::Composite, "before");
    let variant =
        Variant { shape, workers: 3, alter: TO_BIGINT, keys: 100, specials, index_build, seed: 6 };
    variant.migrate().await;
}
