//! pgwraith's rebuild against VACUUM FULL of the same table, in turn, on one idle private server with
//! equal `maintenance_work_mem` and `max_parallel_maintenance_workers`. Every pair runs VACUUM FULL and
//! the rebuild with one index job and with two. Prints each, and the medians of the ratios.
//!
//!     cargo bench --bench vacuum_full -- [--rows 5000000] [--pairs 3] [--parallel 0]

mod tool;

use std::time::Instant;

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use tokio_postgres::Client;
use tool::{Outcome, flag, median, migrate, server};

const MEMORY: &str = "256MB";
const JOBS: [&str; 2] = ["1", "2"];

/// Ratios to VACUUM FULL, of each pair.
#[derive(Default)]
struct Ratios {
    core: Vec<f64>,
    whole: Vec<f64>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, pairs) = (flag("--rows", 5_000_000), flag("--pairs", 3));
    let parallel = flag("--parallel", 0).to_string();
    let settings =
        [("maintenance_work_mem", MEMORY), ("max_parallel_maintenance_workers", &parallel)];
    let (cluster, client) = server(&settings).await?;
    create_orders(&client, rows).await?;
    println!(
        "{rows} orders, three secondary indexes; maintenance_work_mem {MEMORY}, {parallel} parallel maintenance workers"
    );
    let mut ratios = [Ratios::default(), Ratios::default()];
    for pair in 1..=pairs {
        client.batch_execute("CHECKPOINT").await?;
        let started = Instant::now();
        client.batch_execute("VACUUM FULL public.orders").await?;
        let vacuum_full = started.elapsed().as_secs_f64();
        println!("pair {pair}: VACUUM FULL {vacuum_full:.1} s");
        for (jobs, ratios) in JOBS.iter().zip(&mut ratios) {
            let (core, whole) = rebuild(&cluster, &client, jobs, &parallel).await?;
            ratios.core.push(core / vacuum_full);
            ratios.whole.push(whole / vacuum_full);
        }
    }
    for (jobs, Ratios { core, whole }) in JOBS.iter().zip(ratios) {
        println!(
            "median ratio to VACUUM FULL, index jobs {jobs}: copy + index + vacuum {:.2}, everything with verification {:.2}",
            median(core),
            median(whole)
        );
    }
    Ok(())
}

/// Rebuilds the table; seconds of copy, index and vacuum, and of everything.
async fn rebuild(
    cluster: &Cluster,
    client: &Client,
    jobs: &str,
    parallel: &str,
) -> Outcome<(f64, f64)> {
    let args = ["--rebuild", "--maintenance-work-mem", MEMORY];
    let args = args.into_iter().chain(["--index-workers", parallel, "--index-jobs", jobs]);
    client.batch_execute("CHECKPOINT").await?;
    let started = Instant::now();
    let run =
        migrate(cluster, "public.orders", &args.map(str::to_owned).collect::<Vec<_>>()).await?;
    let whole = started.elapsed().as_secs_f64();
    let (copy, index) = (run.number("/phases/copy"), run.number("/phases/index"));
    println!(
        "  index jobs {jobs}: copy {copy:.1} s, index and vacuum {index:.1} s, verify {:.1} s, \
         whole {whole:.1} s, lock {:.1} ms, peak memory {:.0} MB",
        run.number("/phases/verify"),
        run.number("/cutover/lock_held_ms"),
        run.peak_mb
    );
    client.batch_execute("DROP TABLE public.orders_old").await?;
    Ok((copy + index, whole))
}
