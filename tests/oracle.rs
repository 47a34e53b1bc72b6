//! A migration under sessions that do everything an application does to a table, and an oracle that
//! knows what must be there afterwards: every acknowledged token exactly as often as it was written,
//! no token of an aborted transaction, and, in every row that nobody touched after the swap, the
//! retired table's bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{self, Background};

/// Rows before the migration.
const ROWS: u64 = 12_000;
/// Row numbers that the sessions use: some are free, some become free.
const NUMBERS: u64 = ROWS * 5 / 4;
const SESSIONS: u64 = 8;
/// Changes in the one large transaction.
const LARGE: u64 = 200_000;
/// Leaves the server some time, on two cores.
const THINK: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(200);

/// How the table identifies its rows. A row is known to the sessions by its number.
#[derive(Clone, Copy)]
enum Shape {
    Int,
    Composite,
}

impl Shape {
    fn create(self) -> String {
        let key = match self {
            Shape::Int => "id int PRIMARY KEY",
            Shape::Composite => "region text COLLATE \"C\", id int, PRIMARY KEY (region, id)",
        };
        format!(
            "CREATE TABLE t ({key}, u int UNIQUE, tokens text, note text, big text, n int NOT NULL DEFAULT 0);
             CREATE TABLE touched (number int, relation oid);
             INSERT INTO t ({columns}, u, tokens, note, big)
               SELECT {values}, i, 'i' || i, CASE WHEN i % 3 = 0 THEN 'note' END,
                 CASE WHEN i % 100 = 0 THEN (SELECT string_agg(md5(i || ' ' || n), '') FROM generate_series(1, 3200) n) END
               FROM generate_series(1, {ROWS}) i;",
            columns = self.columns(),
            values = self.values("i"),
        )
    }

    fn columns(self) -> &'static str {
        match self {
            Shape::Int => "id",
            Shape::Composite => "region, id",
        }
    }

    fn values(self, number: &str) -> String {
        match self {
            Shape::Int => number.to_owned(),
            Shape::Composite => format!("'region ' || {number} % 7, {number}"),
        }
    }

    /// The row of that number.
    fn is(self, number: u64) -> String {
        match self {
            Shape::Int => format!("id = {number}"),
            Shape::Composite => format!("region = 'region {}' AND id = {number}", number % 7),
        }
    }

    /// Gives the row another number.
    fn becomes(self, number: u64) -> String {
        match self {
            Shape::Int => format!("id = {number}"),
            Shape::Composite => format!("region = 'region {}', id = {number}", number % 7),
        }
    }
}

/// What the acknowledged transactions wrote: how often each token must be in the table.
type Expected = HashMap<String, i64>;

/// Statements that note in `touched` which rows of which relation they changed, and return what
/// that does to the tokens: `+` or `-`, tokens, how many rows.
struct Script {
    shape: Shape,
    sql: String,
}

impl Script {
    fn new(shape: Shape) -> Self {
        Script { shape, sql: String::new() }
    }

    fn raw(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self.sql.push(';');
        self
    }

    /// `change` has to be a statement without its RETURNING.
    fn noted(&mut self, change: &str, also: Option<u64>, result: &str) -> &mut Self {
        let also =
            also.map_or(String::new(), |n| format!(" UNION ALL SELECT {n}, tableoid FROM w"));
        self.raw(&format!(
            "WITH w AS ({change} RETURNING id, tableoid, tokens), \
             j AS (INSERT INTO touched SELECT id, tableoid FROM w{also}) {result}"
        ))
    }

    fn update(&mut self, number: u64, set: &str) -> &mut Self {
        let change = format!("UPDATE t SET {set} WHERE {}", self.shape.is(number));
        self.noted(&change, None, "SELECT '', '', 0 FROM w")
    }

    fn append(&mut self, number: u64, token: &str) -> &mut Self {
        let set = format!("tokens = concat_ws(' ', tokens, '{token}'), n = n + 1");
        let change = format!("UPDATE t SET {set} WHERE {}", self.shape.is(number));
        self.noted(&change, None, &format!("SELECT '+', '{token}', 1 FROM w"))
    }

    /// Appends a token that a rollback takes back.
    fn append_in_vain(&mut self, number: u64, token: &str) -> &mut Self {
        let set = format!("tokens = concat_ws(' ', tokens, '{token}')");
        self.update(number, &set)
    }

    fn insert(&mut self, number: u64, token: &str) -> &mut Self {
        let change = format!(
            "INSERT INTO t ({}, u, tokens) SELECT {}, {number}, '{token}' WHERE NOT EXISTS \
             (SELECT 1 FROM t WHERE u = {number})",
            self.shape.columns(),
            self.shape.values(&number.to_string())
        );
        self.noted(&change, None, &format!("SELECT '+', '{token}', 1 FROM w"))
    }

    fn delete(&mut self, number: u64) -> &mut Self {
        let change = format!("DELETE FROM t WHERE {}", self.shape.is(number));
        self.noted(&change, None, "SELECT '-', tokens, 1 FROM w")
    }

    /// Fails where the other number is taken.
    fn renumber(&mut self, number: u64, to: u64) -> &mut Self {
        let change =
            format!("UPDATE t SET {} WHERE {}", self.shape.becomes(to), self.shape.is(number));
        self.noted(&change, Some(number), "SELECT '', '', 0 FROM w")
    }

    /// Two rows exchange their unique values, by way of a value that nobody has.
    fn swap_unique(&mut self, a: u64, b: u64) -> &mut Self {
        let (first, second) = (self.shape.is(a), self.shape.is(b));
        let note = |is: &str| format!("INSERT INTO touched SELECT id, tableoid FROM t WHERE {is}");
        self.raw(&format!(
            "DO $$ DECLARE ua int; ub int; BEGIN \
               SELECT u INTO ua FROM t WHERE {first} FOR UPDATE; \
               SELECT u INTO ub FROM t WHERE {second} FOR UPDATE; \
               IF ua IS NULL OR ub IS NULL OR ua = ub THEN RETURN; END IF; \
               UPDATE t SET u = -ua WHERE {first}; UPDATE t SET u = ua WHERE {second}; \
               UPDATE t SET u = ub WHERE {first}; {}; {}; END $$",
            note(&first),
            note(&second)
        ))
    }

    /// Runs it in one transaction; None where it was refused and left nothing.
    async fn run(&self, client: &Client) -> Option<Vec<(String, String, i64)>> {
        let sql = format!("BEGIN; {} COMMIT", self.sql);
        let messages = match client.simple_query(&sql).await {
            Ok(messages) => messages,
            Err(e) => {
                client.batch_execute("ROLLBACK").await.unwrap();
                let code = e.code().unwrap_or_else(|| panic!("{e:?}")).code().to_owned();
                // Unique violation, deadlock: an application's own fault. Nothing else may happen.
                assert!(["23505", "40P01"].contains(&code.as_str()), "{e:?}: {sql}");
                return None;
            }
        };
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |i| row.get(i).unwrap_or_default().to_owned();
                Some((text(0), text(1), text(2).parse().unwrap()))
            }
            _ => None,
        });
        Some(rows.collect())
    }
}

/// Takes in what an acknowledged transaction said.
fn note(expected: &mut Expected, rows: Vec<(String, String, i64)>) {
    for (sign, tokens, rows) in rows {
        let change = if sign == "-" { -rows } else { rows };
        for token in tokens.split_whitespace() {
            *expected.entry(token.to_owned()).or_default() += change;
        }
    }
}

fn random_script(shape: Shape, random: &mut StdRng, token: &str) -> Script {
    let mut script = Script::new(shape);
    let mut any = || random.random_range(1..=NUMBERS);
    let (a, b, c) = (any(), any(), any());
    let t = |n: u32| format!("{token}.{n}");
    match random.random_range(0..100) {
        0..25 => script.append(a, &t(0)),
        25..40 => script.insert(a, &t(0)),
        40..50 => script.delete(a),
        50..60 => script.append(a, &t(0)).renumber(a, b),
        60..65 => script.update(a, "note = NULL"),
        65..68 => script.update(a, "note = 'set', tokens = tokens || ''"),
        // The large value alone, and then the row without it: its new version does not carry it.
        68..72 => script.update(
            a,
            "big = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 3200))",
        ),
        72..75 => script.append(a / 100 * 100, &t(0)),
        75..83 => script.swap_unique(a.min(b), a.max(b)),
        83..88 => script
            .append(a, &t(0))
            .raw("SAVEPOINT one")
            .append_in_vain(b, &t(1))
            .raw("ROLLBACK TO one")
            .append(c, &t(2)),
        88..93 => script
            .append_in_vain(a, &t(0))
            .update(b, "note = 'never', big = NULL")
            .raw(&format!("DELETE FROM t WHERE {}", shape.is(c)))
            .raw("ROLLBACK; BEGIN"),
        // A row goes and another takes its number, within one transaction and with one number twice.
        93..96 => script.delete(a).insert(a, &t(0)).append(a, &t(1)),
        _ => script
            .append(a, &t(0))
            .append(b, &t(1))
            .insert(c, &t(2))
            .renumber(b, c)
            .append(c, &t(3)),
    };
    script
}

struct Sessions {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Expected>>,
}

impl Sessions {
    async fn start(dsn: &str, shape: Shape, seed: u64) -> Sessions {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for session in 0..SESSIONS {
            let client = harness::connect(dsn).await;
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let mut random = StdRng::seed_from_u64(seed * 100 + session);
            tasks.push(tokio::spawn(async move {
                let mut expected = Expected::new();
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    count += 1;
                    let token = format!("s{session}.{count}");
                    if let Some(rows) = random_script(shape, &mut random, &token).run(&client).await
                    {
                        note(&mut expected, rows);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(THINK).await;
                }
                expected
            }));
        }
        Sessions { stop, done, tasks }
    }

    async fn some_more(&self, transactions: u64) {
        let until = self.done.load(Ordering::SeqCst) + transactions;
        let reached = async || self.done.load(Ordering::SeqCst) >= until;
        harness::wait_until("the sessions go on", LIMIT, reached).await;
    }

    async fn stop(self) -> Expected {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Expected::new();
        for task in self.tasks {
            for (token, count) in task.await.unwrap() {
                *all.entry(token).or_default() += count;
            }
        }
        all
    }
}

/// One transaction of [`LARGE`] row changes: a token into every row, then one change after another
/// of all rows.
async fn large_transaction(client: &Client) -> Vec<(String, String, i64)> {
    let mut script = Script::new(Shape::Int);
    // Or it would be the victim of one deadlock after another.
    script.raw("LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE");
    script.noted(
        "UPDATE t SET tokens = concat_ws(' ', tokens, 'large')",
        None,
        "SELECT '+', 'large', count(*) FROM w",
    );
    for _ in 1..=(LARGE / (ROWS * 4 / 5)) {
        script.raw("UPDATE t SET n = n + 1");
    }
    script.run(client).await.expect("a transaction that nobody can disturb")
}

/// Empties the table and puts some rows in again.
async fn truncate(client: &Client, shape: Shape) -> Vec<(String, String, i64)> {
    let mut script = Script::new(shape);
    script
        .raw("LOCK TABLE t")
        .raw("SELECT '-', tokens, 1 FROM t")
        .raw("INSERT INTO touched SELECT id, tableoid FROM t")
        .raw("TRUNCATE t");
    for number in 1..=ROWS / 10 {
        script.insert(number * 3, &format!("after.{number}"));
    }
    script.run(client).await.expect("a transaction that nobody can disturb")
}

/// Which of the variants' special transactions happen.
#[derive(Clone, Copy, PartialEq)]
enum Special {
    None,
    Large,
    Truncate,
}

/// Migrates under the sessions and asks the oracle.
async fn migrate(shape: Shape, workers: u32, alter: &str, special: Special, seed: u64) {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "oracle").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(&shape.create()).await.unwrap();
    let sessions = Sessions::start(&dsn, shape, seed).await;
    let workers = workers.to_string();
    // Room for some of the changed keys: others go to the database and come back
    // many times over.
    let keys = if special == Special::Truncate { "100" } else { "50000" };
    let mut run = Background::start([
        "run",
        "t",
        "-d",
        &dsn,
        "--json",
        "--alter",
        alter,
        "--workers",
        &workers,
        "--chunk-rows",
        "100",
        "--chunk-time",
        "1ms",
        "--max-keys-in-memory",
        keys,
    ]);
    harness::wait_for_phase(&client, &mut run, "t", "copy").await;
    let source: u32 = one(&client, "SELECT 't'::regclass::oid").await;
    let rows = match special {
        Special::None => Vec::new(),
        Special::Large => large_transaction(&client).await,
        Special::Truncate => truncate(&client, shape).await,
    };
    let output = run.finish(LIMIT).await.expect_code(0);
    sessions.some_more(200).await;
    let mut expected = sessions.stop().await;
    note(&mut expected, rows);
    for number in 1..=ROWS {
        *expected.entry(format!("i{number}")).or_default() += 1;
    }

    let target: u32 = one(&client, "SELECT 't'::regclass::oid").await;
    assert_ne!(source, target);
    assert_eq!(one::<u32>(&client, "SELECT 't_old'::regclass::oid").await, source);
    let ty: String =
        one(&client, "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'id'").await;
    assert_eq!(ty, "bigint");
    let during: i64 =
        one(&client, &format!("SELECT count(*) FROM touched WHERE relation = {source}")).await;
    let after: i64 =
        one(&client, &format!("SELECT count(*) FROM touched WHERE relation = {target}")).await;
    assert!(during > 0 && after > 0, "{during} rows changed before the swap, {after} after it");
    check_tokens(&client, expected, &output).await;
    check_retired(&client, &output).await;
    let verify = &output.json()["verify"];
    assert_eq!(verify["mismatches"], 0, "{output}");
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
    migrate(Shape::Int, 1, TO_BIGINT, Special::Large, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_of_a_table_with_a_composite_key() {
    migrate(Shape::Composite, 2, TO_BIGINT, Special::None, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_four_workers() {
    let alter = "ALTER COLUMN id TYPE bigint, ADD COLUMN added text NOT NULL DEFAULT 'x'";
    migrate(Shape::Int, 4, alter, Special::None, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_table_is_truncated() {
    migrate(Shape::Composite, 3, TO_BIGINT, Special::Truncate, 4).await;
}
