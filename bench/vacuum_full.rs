//! pgwraith's rebuild against VACUUM FULL of the same table, in turn, on one idle private server with
//! equal `maintenance_work_mem` and parallel settings. Prints each pair and the medians of the ratios.
//!
//!     cargo bench --bench vacuum_full -- [--rows 5000000] [--pairs 3] [--parallel 0] [--index-jobs 1]

mod tool;

use std::time::Instant;

use pgwraith::demo::orders::create_orders;
use tool::{Outcome, flag, median, migrate, server};

const MEMORY: &str = "256MB";

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, pairs) = (flag("--rows", 5_000_000), flag("--pairs", 3));
    let parallel = flag("--parallel", 0).to_string();
    let jobs = flag("--index-jobs", 1).to_string();
    let settings =
        [("maintenance_work_mem", MEMORY), ("max_parallel_maintenance_workers", &parallel)];
    let (cluster, client) = server(&settings).await?;
    create_orders(&client, rows).await?;
    println!(
        "{rows} orders, three secondary indexes; maintenance_work_mem {MEMORY}, {parallel} parallel maintenance workers, {jobs} index jobs"
    );
    let args = [
        "--rebuild",
        "--maintenance-work-mem",
        MEMORY,
        "--index-workers",
        &parallel,
        "--index-jobs",
        &jobs,
    ]
    .map(str::to_owned);
    let (mut core, mut whole) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        client.batch_execute("CHECKPOINT").await?;
        let started = Instant::now();
        client.batch_execute("VACUUM FULL public.orders").await?;
        let vacuum_full = started.elapsed().as_secs_f64();
        client.batch_execute("CHECKPOINT").await?;
        let started = Instant::now();
        let run = migrate(&cluster, &args).await?;
        let total = started.elapsed().as_secs_f64();
        let (copy, index) = (run.number("/phases/copy"), run.number("/phases/index"));
        let verify = run.number("/phases/verify");
        println!(
            "pair {pair}: VACUUM FULL {vacuum_full:.1} s; pgwraith copy {copy:.1} s, index and vacuum {index:.1} s, \
             verify {verify:.1} s, whole {total:.1} s, lock {:.1} ms, peak memory {:.0} MB",
            run.number("/cutover/lock_held_ms"),
            run.peak_mb
        );
        core.push((copy + index) / vacuum_full);
        whole.push(total / vacuum_full);
        client.batch_execute("DROP TABLE public.orders_old").await?;
    }
    println!(
        "median ratio to VACUUM FULL: copy + index + vacuum {:.2}, everything with verification {:.2}",
        median(core),
        median(whole)
    );
    Ok(())
}
