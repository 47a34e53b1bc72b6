//! How long the cutover holds its locks where everything hangs on the table that can (the zoo of the
//! tests), while clients go through it, its parent, its child and its views without pause. Prints each
//! run by step, and the medians.
//!
//!     cargo bench --bench zoo_lock -- [--runs 7]

mod tool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tool::{Outcome, STEPS, flag, median, migrate, server};

const ZOO: &str = include_str!("../tests/cases/zoo.sql");

/// What each client repeats; `{n}` is the number of the round.
const CLIENTS: [&str; 4] = [
    "UPDATE zoo SET name = 'w{n}' WHERE id = 100 + {n} % 400 * 5",
    "BEGIN; INSERT INTO parent VALUES (1000 + {n}); INSERT INTO zoo (pid, name, email) VALUES (1000 + {n}, 'w', 'w{n}'); \
     DELETE FROM parent WHERE pid = 1000 + {n}; COMMIT",
    "BEGIN; INSERT INTO child VALUES (-{n}, 100 + {n} % 400 * 5); DELETE FROM child WHERE cid = -{n}; COMMIT",
    "SELECT count(*) FROM s.zoo_v2 WHERE id = 100 + {n} % 400 * 5; SELECT count(*) FROM zoo_v3 WHERE pid = {n} % 50",
];

#[tokio::main]
async fn main() -> Outcome<()> {
    let runs = flag("--runs", 7);
    let (cluster, client) = server(&[]).await?;
    client.batch_execute(ZOO).await?;
    println!("the zoo of the tests, {} clients as fast as they can", CLIENTS.len());
    let (mut held, mut stalls) = (Vec::new(), Vec::new());
    let mut steps: [Vec<f64>; STEPS.len()] = Default::default();
    let mut round = 0;
    for run in 1..=runs {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for sql in CLIENTS {
            clients.push(start(&cluster.dsn("postgres"), sql, round, Arc::clone(&stop)).await?);
        }
        let done = migrate(&cluster, "public.zoo", &["--rebuild".to_owned()]).await?;
        stop.store(true, Ordering::SeqCst);
        let (mut rounds, mut longest) = (0, Duration::ZERO);
        for client in clients {
            let (done, stall) = client.await??;
            rounds += done - round;
            round = round.max(done);
            longest = longest.max(stall);
        }
        let lock = done.number("/cutover/lock_held_ms");
        let step = STEPS.map(|name| done.number(&format!("/cutover/steps/{name}_ms")));
        println!(
            "run {run}: locks held {lock:.1} ms ({}), attempts {}, foreign keys validated {}, peak memory {:.0} MB; clients: {rounds} rounds, longest {:.1} ms",
            by_step(&step),
            done.number("/cutover/attempts"),
            done.number("/foreign_keys"),
            done.peak_mb,
            longest.as_secs_f64() * 1000.0
        );
        held.push(lock);
        stalls.push(longest.as_secs_f64() * 1000.0);
        steps.iter_mut().zip(step).for_each(|(all, ms)| all.push(ms));
        client.batch_execute("DROP TABLE public.zoo_old").await?;
    }
    println!(
        "median: locks held {:.1} ms ({}); a client's longest round {:.1} ms",
        median(held),
        by_step(&steps.map(median)),
        median(stalls)
    );
    Ok(())
}

fn by_step(ms: &[f64; STEPS.len()]) -> String {
    STEPS.iter().zip(ms).map(|(name, ms)| format!("{name} {ms:.1}")).collect::<Vec<_>>().join(", ")
}

/// The client's last round and its longest; any error ends the bench.
type Client = JoinHandle<Result<(u64, Duration), tokio_postgres::Error>>;

async fn start(dsn: &str, sql: &'static str, from: u64, stop: Arc<AtomicBool>) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(tokio::spawn(async move {
        let (mut n, mut longest) = (from, Duration::ZERO);
        while !stop.load(Ordering::SeqCst) {
            n += 1;
            let began = Instant::now();
            client.batch_execute(&sql.replace("{n}", &n.to_string())).await?;
            longest = longest.max(began.elapsed());
        }
        Ok((n, longest))
    }))
}
