//! Indexes built after the copy against indexes that the copy fills (`--index-build`), in turn, on one idle
//! private server. Prints how long copy and index phase took, WAL, and the indexes' size, of each; and the medians
//! of the ratios.
//!
//!     cargo bench --bench index_build -- [--rows 1000000] [--pairs 3]

mod tool;

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use tokio_postgres::Client;
use tool::{Outcome, flag, median, migrate, server};

/// What one run took.
struct Taken {
    seconds: f64,
    wal: f64,
    indexes: f64,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let (rows, pairs) = (flag("--rows", 1_000_000), flag("--pairs", 3));
    let (cluster, client) = server(&[]).await?;
    create_orders(&client, rows).await?;
    println!("{rows} orders, four indexes");
    let (mut seconds, mut wal, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 1..=pairs {
        let after = run(&cluster, &client, "after").await?;
        let before = run(&cluster, &client, "before").await?;
        seconds.push(before.seconds / after.seconds);
        wal.push(before.wal / after.wal);
        indexes.push(before.indexes / after.indexes);
    }
    println!(
        "median of before to after: copy + index {:.2}, WAL {:.2}, size of the indexes {:.2}",
        median(seconds),
        median(wal),
        median(indexes)
    );
    Ok(())
}

async fn run(cluster: &Cluster, client: &Client, when: &str) -> Outcome<Taken> {
    client.batch_execute("CHECKPOINT").await?;
    let end = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8";
    let from: f64 = client.query_one(end, &[]).await?.get(0);
    let args = ["--rebuild", "--index-build", when].map(str::to_owned);
    let run = migrate(cluster, "public.orders", &args).await?;
    let wal = client.query_one(end, &[]).await?.get::<_, f64>(0) - from;
    let size = "SELECT pg_indexes_size('public.orders')::float8";
    let indexes: f64 = client.query_one(size, &[]).await?.get(0);
    let (copy, index) = (run.number("/phases/copy"), run.number("/phases/index"));
    println!(
        "  {when:<6} copy {copy:.1} s, index and vacuum {index:.1} s, WAL {:.0} MB, indexes {:.0} MB",
        wal / 1048576.0,
        indexes / 1048576.0
    );
    client.batch_execute("DROP TABLE public.orders_old").await?;
    Ok(Taken { seconds: copy + index, wal, indexes })
}
