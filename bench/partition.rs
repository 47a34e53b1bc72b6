//! An ordinary table partitioned by month, against what plain statements take for the same: INSERT … SELECT into a
//! partitioned table of the same bounds, the same indexes, VACUUM and ANALYZE; in turn, on one idle private server
//! with equal `maintenance_work_mem`, with one index built at a time and with as many as there are cores. Prints each, and
//! the medians of the ratios.
//!
//!     cargo bench --bench partition -- [--rows 5000000] [--pairs 3]

mod tool;

use std::time::Instant;

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use tokio_postgres::Client;
use tool::{Outcome, flag, median, migrate, server};

const MEMORY: &str = "256MB";
const ALTER: &str =
    "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at)";

const JOBS: [&str; 2] = ["1", "2"];

/// To plain statements, of each pair.
#[derive(Default)]
struct Ratios {
    core: Vec<f64>,
    whole: Vec<f64>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, pairs) = (flag("--rows", 5_000_000), flag("--pairs", 3));
    let settings = [("maintenance_work_mem", MEMORY), ("max_parallel_maintenance_workers", "0")];
    let (cluster, client) = server(&settings).await?;
    create_orders(&client, rows).await?;
    client
        .batch_execute("CREATE TABLE kept AS TABLE orders; SET max_parallel_workers_per_gather = 0")
        .await?;
    println!(
        "{rows} orders by month, primary key and three secondary indexes; maintenance_work_mem {MEMORY}"
    );
    let mut ratios = JOBS.map(|_| Ratios::default());
    for pair in 1..=pairs {
        client.batch_execute("CHECKPOINT").await?;
        let plain = by_hand(&client).await?;
        println!("pair {pair}: by hand {plain:.1} s");
        for (jobs, Ratios { core, whole }) in JOBS.iter().zip(&mut ratios) {
            let (rows, all) = partition(&cluster, &client, jobs).await?;
            core.push(rows / plain);
            whole.push(all / plain);
            make_anew(&client).await?;
        }
    }
    for (jobs, Ratios { core, whole }) in JOBS.iter().zip(ratios) {
        println!(
            "median ratio to plain statements, index jobs {jobs}: copy + index + vacuum {:.2}, everything with verification {:.2}",
            median(core),
            median(whole)
        );
    }
    Ok(())
}

/// The table as it was.
async fn make_anew(client: &Client) -> Outcome<()> {
    client.batch_execute("DROP TABLE orders CASCADE; DROP TABLE orders_old").await?;
    create_orders(client, 0).await?;
    client.batch_execute("INSERT INTO orders OVERRIDING SYSTEM VALUE TABLE kept").await?;
    client.batch_execute("VACUUM ANALYZE orders").await?;
    Ok(())
}

/// Seconds until rows and indexes are there, and of all of it.
async fn partition(cluster: &Cluster, client: &Client, jobs: &str) -> Outcome<(f64, f64)> {
    client.batch_execute("CHECKPOINT").await?;
    let started = Instant::now();
    let change =
        ["--alter", ALTER, "--partition-by", "RANGE (created_at)", "--partition-every", "1 month"];
    let limits = ["--maintenance-work-mem", MEMORY, "--index-jobs", jobs];
    let args: Vec<String> = change.into_iter().chain(limits).map(str::to_owned).collect();
    let run = migrate(cluster, "public.orders", &args).await?;
    let all = started.elapsed().as_secs_f64();
    let (copy, index) = (run.number("/phases/copy"), run.number("/phases/index"));
    println!(
        "  index jobs {jobs}: copy {copy:.1} s, index and vacuum {index:.1} s, verify {:.1} s, whole {all:.1} s, \
         lock {:.1} ms, peak memory {:.0} MB",
        run.number("/phases/verify"),
        run.number("/cutover/lock_held_ms"),
        run.peak_mb
    );
    Ok((copy + index, all))
}

/// Seconds of plain statements; what they made is dropped.
async fn by_hand(client: &Client) -> Outcome<f64> {
    let months = "SELECT string_agg(format('CREATE TABLE twin_%s PARTITION OF twin FOR VALUES FROM (%L) TO (%L)', \
                    to_char(m, 'YYYYMM'), m, m + interval '1 month'), '; ') \
                  FROM generate_series((SELECT date_trunc('month', min(created_at)) FROM orders), \
                    (SELECT greatest(max(created_at), now()) FROM orders), '1 month') m";
    let months: String = client.query_one(months, &[]).await?.get(0);
    client
        .batch_execute(&format!(
            "CREATE TABLE twin (LIKE orders INCLUDING DEFAULTS) PARTITION BY RANGE (created_at); {months}; \
             CREATE TABLE twin_default PARTITION OF twin DEFAULT"
        ))
        .await?;
    let started = Instant::now();
    client.batch_execute("INSERT INTO twin SELECT * FROM orders").await?;
    for index in [
        "ALTER TABLE twin ADD PRIMARY KEY (id, created_at)",
        "CREATE INDEX ON twin (customer_id)",
        "CREATE INDEX ON twin (status, created_at)",
        "CREATE INDEX ON twin (created_at)",
        "VACUUM ANALYZE twin",
    ] {
        client.batch_execute(index).await?;
    }
    let took = started.elapsed().as_secs_f64();
    client.batch_execute("DROP TABLE twin").await?;
    Ok(took)
}
