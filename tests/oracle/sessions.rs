//! The application: sessions with a transaction of every kind, and the two special ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use super::script::{Expected, Script, Shape};
use super::{LIMIT, ROWS};
use crate::harness;

/// Row numbers that the sessions use: some are free, some become free.
const NUMBERS: u64 = ROWS * 5 / 4;
const SESSIONS: u64 = 8;
/// Leaves the servers of three such tests some time, on two cores.
const THINK: Duration = Duration::from_millis(20);
/// Changes in the one large transaction.
const LARGE: u64 = 200_000;
/// Rows that it changes in turn.
const BLOCK: u64 = 1000;

/// Takes in what an acknowledged transaction said.
pub fn note(expected: &mut Expected, rows: Vec<(String, String, i64)>) {
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
            "big = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 800))",
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

pub struct Sessions {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Expected>>,
}

impl Sessions {
    pub async fn start(dsn: &str, shape: Shape, seed: u64) -> Sessions {
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

    pub async fn some_more(&self, transactions: u64) {
        let until = self.done.load(Ordering::SeqCst) + transactions;
        let reached = async || self.done.load(Ordering::SeqCst) >= until;
        harness::wait_until("the sessions go on", LIMIT, reached).await;
    }

    pub async fn stop(self) -> Expected {
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
pub async fn large_transaction(client: &Client, shape: Shape) -> Vec<(String, String, i64)> {
    let mut script = Script::new(shape);
    // Or it would be the victim of one deadlock after another: whoever waits for it has looked for
    // a deadlock before it closes one. The mode lets nobody in who goes on to update, FOR UPDATE say.
    script.raw("LOCK TABLE t IN EXCLUSIVE MODE");
    script.noted(
        "UPDATE t SET tokens = concat_ws(' ', tokens, 'large')",
        None,
        "SELECT '+', 'large', count(*) FROM w",
    );
    // In blocks, so that a key comes again while it is in memory, and again when it was stored.
    script.raw(&format!(
        "DO $$ BEGIN FOR block IN 0..{NUMBERS} / {BLOCK} LOOP FOR i IN 1..{} LOOP \
           UPDATE t SET n = n + 1 WHERE id / {BLOCK} = block; END LOOP; END LOOP; END $$",
        LARGE / (ROWS * 4 / 5)
    ));
    script.run(client).await.expect("a transaction that nobody can disturb")
}

/// Empties the table and puts some rows in again.
pub async fn truncate(client: &Client, shape: Shape) -> Vec<(String, String, i64)> {
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
