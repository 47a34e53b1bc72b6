//! How long the cutover holds its lock while clients update the table without pause. Prints each run
//! and the medians.
//!
//!     cargo bench --bench lock_hold -- [--rows 200000] [--runs 7] [--clients 4]

mod tool;

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};
use tool::{Outcome, flag, median, migrate, server};

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, runs) = (flag("--rows", 200_000), flag("--runs", 7));
    let clients = flag("--clients", 4) as usize;
    let (cluster, client) = server(&[]).await?;
    create_orders(&client, rows).await?;
    println!("{rows} orders, {clients} clients updating them as fast as they can");
    let (mut held, mut stalled) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let mix = Mix {
            sessions: clients,
            inserts: 0,
            deletes: 0,
            moves: 0,
            reads: 0,
            updates: 1,
            ..Mix::default()
        };
        let traffic = Traffic::start(&cluster.dsn("postgres"), "public.orders", mix).await?;
        let done = migrate(&cluster, "public.orders", &["--rebuild".to_owned()]).await?;
        let report = traffic.stop().await?;
        let oracle = report.verify_rows(&client, "public.orders").await?;
        if !oracle.is_ok() {
            return Err(format!("writes are missing: {:?}", oracle.lost).into());
        }
        let (lock, stall) =
            (done.number("/cutover/lock_held_ms"), done.number("/cutover/stall_ms"));
        println!(
            "run {run}: lock held {lock:.1} ms, stall {stall:.1} ms, attempts {}, keys synced {}, peak memory {:.0} MB; clients: {:.0} writes/s, longest stall {:.1} ms",
            done.number("/cutover/attempts"),
            done.number("/keys_synced"),
            done.peak_mb,
            report.writes_per_second(),
            report.longest_stall.duration.as_secs_f64() * 1000.0
        );
        held.push(lock);
        stalled.push(stall);
        client.batch_execute("DROP TABLE public.orders_old").await?;
    }
    println!("median: lock held {:.1} ms, stall {:.1} ms", median(held), median(stalled));
    Ok(())
}
