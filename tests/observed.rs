//! What a run tells of itself: how long things took, its log, its metrics.

use pgwraith::demo::orders::create_orders;
use serde_json::Value;

use crate::harness;
use crate::scene::shop;

fn of<'a>(times: &'a Value, what: &str, number: &str) -> &'a Value {
    &times[what][number]
}

/// Every kind of thing that a run does is timed, and the cutover's stall is the one that the report tells.
#[tokio::test]
async fn the_report_tells_how_long_things_took() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let held = shop.held("catch up", "orders", &["--rebuild", "--chunk-rows", "300"]).await;
    shop.exec("UPDATE orders SET note = 'changed' WHERE id <= 10").await;
    let done = held.finish().await.expect_code(0);
    let report = done.json();
    let times = &report["times"];
    for what in ["chunk", "sync", "verify", "fence", "stall"] {
        let number = |name: &str| of(times, what, name).as_f64().unwrap();
        assert!(number("count") >= 1.0, "{what}: {times}");
        assert!(number("p50_ms") > 0.0, "{what}: {times}");
        let order = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(number);
        assert!(order.is_sorted(), "{what}: {times}");
    }
    assert_eq!(of(times, "chunk", "count"), &report["chunks"]);
    assert_eq!(of(times, "stall", "count"), &report["cutover"]["attempts"]);
    let stall = report["cutover"]["stall_ms"].as_f64().unwrap();
    let longest = of(times, "stall", "max_ms").as_f64().unwrap();
    assert!(longest > 0.99 * stall, "{report}");

    shop.exec("DROP TABLE orders_old").await;
    let text = harness::run(["run", "orders", "-d", &shop.dsn, "--rebuild"]).await.expect_code(0);
    let line = text.stdout.lines().find(|line| line.trim_start().starts_with("stall "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert_eq!(line.split_whitespace().count(), 6, "{line}");
}
