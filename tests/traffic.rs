//! The traffic's oracle is right, and it can fail.

use std::time::Duration;

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Report, Traffic};
use tokio_postgres::Client;

use crate::harness;

const SOON: Duration = Duration::from_secs(60);

/// A small table, so that rows are hit again and again.
async fn orders(cluster: &Cluster, rows: u64) -> (String, Client) {
    let dsn = harness::database(cluster, "shop").await;
    let client = harness::connect(&dsn).await;
    create_orders(&client, rows).await.unwrap();
    (dsn, client)
}

async fn writes_reach(traffic: &Traffic, writes: u64) {
    let reached = async || traffic.writes() >= writes;
    harness::wait_until(&format!("{writes} writes"), SOON, reached).await;
}

async fn some_traffic(dsn: &str, writes: u64) -> Report {
    let traffic = Traffic::start(dsn, "orders", Mix::default()).await.unwrap();
    writes_reach(&traffic, writes).await;
    assert!(traffic.take_worst() > Duration::ZERO);
    traffic.stop().await.unwrap()
}

#[track_caller]
fn assert_undisturbed(report: &Report) {
    assert!(report.errors.is_empty() && report.error_count == 0, "{:?}", report.errors);
    assert!(report.anomalies.is_empty() && report.anomaly_count == 0, "{:?}", report.anomalies);
    assert_eq!(report.lost_connections, 0);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_and_tampering_is_found() {
    let cluster = harness::cluster().await;
    let (dsn, client) = orders(&cluster, 1000).await;
    let report = some_traffic(&dsn, 5000).await;
    assert_undisturbed(&report);
    assert_eq!(report.cached_plan_errors, 0);
    assert!(report.writes >= 5000 && report.writes_per_second() > 0.0);
    assert!([report.inserts, report.updates, report.deletes, report.moves].iter().all(|n| *n > 0));
    assert!(report.p50 > Duration::ZERO && report.p50 <= report.p99);
    assert!(report.p99 <= report.p999 && report.longest_stall.duration > Duration::ZERO);

    let result = report.verify(&client, "orders").await.unwrap();
    assert!(result.is_ok() && result.checked > 1000, "{result:?}");
    for tampering in TAMPERINGS {
        finds(&report, &client, tampering).await;
    }
    let again = some_traffic(&dsn, 500).await;
    assert_undisturbed(&again);
    let result = again.verify(&client, "orders").await.unwrap();
    assert!(result.is_ok(), "traffic after traffic: {result:?}");
}

/// Somebody's mistake; how many lost and how many unexpected things it makes.
const TAMPERINGS: [(&str, usize, usize); 6] = [
    ("UPDATE orders SET note = note || 'x' WHERE id = (SELECT max(id) FROM orders)", 1, 0),
    ("UPDATE orders SET note = NULL WHERE id = (SELECT max(id) FROM orders)", 1, 0),
    // The row, and the number of rows.
    ("DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)", 2, 0),
    // Only the number tells of a row that nobody knows.
    ("INSERT INTO orders (id, customer_id, status, amount) VALUES (-1, 1, 'new', 1)", 0, 1),
    // A row where one was deleted or moved away.
    (
        "UPDATE orders SET id = (SELECT min(n) FROM generate_series(1, 1000) n \
         WHERE n NOT IN (SELECT id FROM orders)) WHERE id = (SELECT max(id) FROM orders)",
        1,
        1,
    ),
    (
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey; \
      INSERT INTO orders SELECT * FROM orders WHERE id = (SELECT max(id) FROM orders)",
        0,
        2,
    ),
];

async fn finds(report: &Report, client: &Client, (sql, lost, unexpected): (&str, usize, usize)) {
    client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    let result = report.verify(client, "orders").await.unwrap();
    let found = (result.lost.len(), result.unexpected.len());
    assert_eq!(found, (lost, unexpected), "{sql}: {result:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_changed_row_type_is_counted_and_survived() {
    let cluster = harness::cluster().await;
    let (dsn, client) = orders(&cluster, 1000).await;
    let traffic = Traffic::start(&dsn, "orders", Mix::default()).await.unwrap();
    writes_reach(&traffic, 500).await;
    client.batch_execute("ALTER TABLE orders ALTER id TYPE bigint").await.unwrap();
    writes_reach(&traffic, traffic.writes() + 500).await;
    let report = traffic.stop().await.unwrap();

    assert_undisturbed(&report);
    assert!(report.cached_plan_errors > 0);
    let result = report.verify(&client, "orders").await.unwrap();
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test]
async fn the_longest_stall_is_the_lock_somebody_held() {
    const HELD: Duration = Duration::from_millis(300);
    let cluster = harness::cluster().await;
    let (dsn, client) = orders(&cluster, 1000).await;
    let mix = Mix { rate: Some(200.0), sessions: 2, ..Mix::default() };
    let traffic = Traffic::start(&dsn, "orders", mix).await.unwrap();
    writes_reach(&traffic, 50).await;

    client.batch_execute("BEGIN; LOCK TABLE orders").await.unwrap();
    let locked = std::time::SystemTime::now();
    tokio::time::sleep(HELD).await;
    client.batch_execute("COMMIT").await.unwrap();
    writes_reach(&traffic, traffic.writes() + 50).await;
    let report = traffic.stop().await.unwrap();

    let stall = report.longest_stall;
    assert!(stall.duration >= HELD / 2, "{stall:?}");
    assert!(stall.began + stall.duration > locked + HELD / 2, "{stall:?}, locked {locked:?}");
    assert!(report.writes_per_second() < 400.0, "{}", report.writes_per_second());
}

#[tokio::test]
async fn a_refused_statement_is_told_and_counts_as_not_applied() {
    let cluster = harness::cluster().await;
    let (dsn, client) = orders(&cluster, 1000).await;
    let traffic = Traffic::start(&dsn, "orders", Mix::default()).await.unwrap();
    client
        .batch_execute("ALTER TABLE orders ADD CHECK (status <> 'returned') NOT VALID")
        .await
        .unwrap();
    writes_reach(&traffic, traffic.writes() + 1000).await;
    let report = traffic.stop().await.unwrap();

    assert!(report.error_count > 0 && report.lost_connections == 0);
    let refused =
        |e: &pgwraith::demo::traffic::StatementError| e.sqlstate.as_deref() == Some("23514");
    assert!(report.errors.iter().all(refused), "{:?}", report.errors);
    let result = report.verify(&client, "orders").await.unwrap();
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test]
async fn a_crash_leaves_doubts_but_loses_nothing() {
    let mut cluster = harness::cluster().await;
    let (dsn, _) = orders(&cluster, 1000).await;
    let mix = Mix { sessions: 8, ..Mix::default() };
    let traffic = Traffic::start(&dsn, "orders", mix).await.unwrap();
    writes_reach(&traffic, 1000).await;
    cluster.crash().await.unwrap();
    cluster.restart().await.unwrap();
    writes_reach(&traffic, traffic.writes() + 1000).await;
    let report = traffic.stop().await.unwrap();

    assert!(report.lost_connections > 0 && report.error_count >= report.lost_connections);
    assert!(report.anomalies.is_empty(), "{:?}", report.anomalies);
    let client = harness::connect(&dsn).await;
    let result = report.verify(&client, "orders").await.unwrap();
    assert!(result.is_ok(), "{result:?}");
}
