//! Each signal that nothing else has a test of holds a run up, and stops it where it is critical: all of them against one
//! server that is in trouble in every way.

use std::time::Duration;

use pgwraith::demo::cluster::Cluster;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, exec, shop, shop_with, wait_for};
use crate::standby_lag::Frozen;

/// Many runs at a time.
const ROOM: [(&str, &str); 6] = [
    ("archive_mode", "on"),
    ("archive_command", "false"),
    ("max_connections", "300"),
    ("max_wal_senders", "30"),
    ("max_replication_slots", "30"),
    ("wal_level", "logical"),
];

/// A server whose standby replays nothing, whose subscriber reads nothing, and that writes some megabytes a second.
struct Troubled {
    shop: Shop,
    writes: JoinHandle<()>,
    _frozen: Frozen,
    _standby: Cluster,
    /// Keeps the subscriber from applying anything.
    _locker: Client,
}

async fn troubled() -> Troubled {
    let shop = shop_with(&ROOM).await;
    let standby = shop.cluster.standby(&[]).await.unwrap();
    let locker = subscribed(&shop).await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    let frozen = Frozen::processes(&standby, "backend_type = 'startup'").await;
    let writer = shop.session().await;
    let writes = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000))";
        loop {
            tick.tick().await;
            if writer.batch_execute(write).await.is_err() {
                return;
            }
        }
    });
    Troubled { shop, writes, _frozen: frozen, _standby: standby, _locker: locker }
}

/// A subscriber of the same cluster, in use, that waits for a lock in its own database.
async fn subscribed(shop: &Shop) -> Client {
    let table = "CREATE TABLE theirs (id int PRIMARY KEY)";
    shop.exec(&format!("{table}; CREATE PUBLICATION p FOR TABLE theirs")).await;
    shop.exec("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
    let locker = harness::connect(&harness::database(&shop.cluster, "subscriber").await).await;
    exec(&locker, table).await;
    let subscribe = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, copy_data = false)",
        shop.dsn
    );
    exec(&locker, &subscribe).await;
    // A stronger one would have a transaction number, and runs would wait for it.
    exec(&locker, "BEGIN; LOCK TABLE theirs IN SHARE ROW EXCLUSIVE MODE").await;
    shop.exec("INSERT INTO theirs VALUES (1)").await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND backend_type LIKE 'logical replication%')";
    harness::wait_for_sql(&shop.client, "the subscriber waits", waits).await;
    locker
}

/// What holds a run up.
const HOLDS_UP: [(&str, &str, &str); 3] = [
    ("max-wal-rate=1MB", "it waits for wal-rate: ", "max-wal-rate="),
    ("max-subscriber-lag=1MB", "it waits for slot s: ", "max-subscriber-lag=1TB"),
    ("max-lag-bytes=1MB", "it waits for standby walreceiver: ", "max-lag-bytes=1TB"),
];

/// The critical limit, the signal that is over it, and what is told of it.
const STOPS: [(&str, &str, &str); 7] = [
    ("lag=1s", "standby walreceiver", " of 1 s"),
    ("lag-bytes=1MB", "standby walreceiver", " of 1 MB"),
    ("subscriber-lag=1MB", "slot s", " of 1 MB"),
    ("wal-rate=1MB", "wal-rate", " of 1 MB a second"),
    ("archive-lag=1MB", "archiver", " of 1 MB"),
    ("lock-waiters=1", "lock-waiters", " of 1 sessions"),
    ("probe=200ms", "probe", " of 200.0 ms"),
];

#[tokio::test]
async fn every_signal_holds_a_run_up_and_stops_it_where_it_is_critical() {
    let troubled = troubled().await;
    hold_up(&troubled.shop).await;
    stop(&troubled.shop).await;
    troubled.writes.abort();
}

/// One after the other in one run, which has nothing to copy yet: what its workers may do is asked.
async fn hold_up(shop: &Shop) {
    shop.exec("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let patient = [
        "--max-lag",
        "1h",
        "--max-lag-bytes",
        "1TB",
        "--max-subscriber-lag",
        "1TB",
        "--max-archive-lag",
        "1TB",
    ];
    let change: Vec<&str> = ["--rebuild"].into_iter().chain(patient).collect();
    let mut held = shop.held("copy", "orders", &change).await;
    for (limit, told, back) in HOLDS_UP {
        let workers = |are: &str| {
            format!(
                "SELECT EXISTS (SELECT 1 FROM pgwraith.progress WHERE (facts->>'workers')::int {are})"
            )
        };
        wait_for(&shop.client, &mut held.run, "it may work", &workers("> 0")).await;
        set(shop, limit).await;
        held.run.wait_for_saying(told).await;
        wait_for(&shop.client, &mut held.run, "nobody may work", &workers("= 0")).await;
        set(shop, back).await;
    }
    held.finish().await.expect_code(0);
}

async fn set(shop: &Shop, limit: &str) {
    harness::run(["set", "orders", "-d", &shop.dsn, limit]).await.expect_code(0);
}

/// A run each, all at a time, since each takes seconds to be sure.
async fn stop(shop: &Shop) {
    let mut runs = Vec::new();
    for (limit, signal, _) in STOPS {
        let table = signal_table(limit);
        let wide = signal == "probe";
        // Large enough for being probed.
        let (rows, filler) = if wide { (40_000, 2_000) } else { (10, 1) };
        shop.exec(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, filler text); ALTER TABLE {table} ALTER filler SET STORAGE plain; \
             INSERT INTO {table} SELECT i, repeat('f', {filler}) FROM generate_series(1, {rows}) i"
        ))
        .await;
        let arguments = shop.arguments(&table, &["--rebuild", "--pause", "--critical", limit]);
        runs.push(Background::start(arguments));
    }
    let all =
        format!("SELECT count(*) = {} FROM pgwraith.migration WHERE phase = 'copy'", STOPS.len());
    harness::wait_for_sql(&shop.client, "all are under way", &all).await;
    // Only now: until it has its slot a run waits for who writes.
    let (holder, mut waiting) = (shop.session().await, Vec::new());
    exec(&holder, &format!("BEGIN; LOCK TABLE {}", signal_table("probe="))).await;
    for _ in 0..2 {
        let client = shop.session().await;
        let table = signal_table("probe=");
        waiting.push(tokio::spawn(async move {
            let _ = client.batch_execute(&format!("SELECT count(*) FROM {table}")).await;
        }));
    }
    for ((limit, signal, told), run) in STOPS.into_iter().zip(runs) {
        let output = run.finish(SOON).await.expect_code(1);
        let over = format!("{signal} is over its critical limit (--critical) for seconds: ");
        let said = output.stderr.split(&over).nth(1).unwrap_or_else(|| panic!("{limit}: {output}"));
        assert!(said.lines().next().unwrap_or_default().contains(told), "{limit}: {output}");
    }
    exec(&holder, "ROLLBACK").await;
    waiting.iter().for_each(JoinHandle::abort);
}

/// A table for each limit.
fn signal_table(limit: &str) -> String {
    format!("for_{}", limit.split('=').next().unwrap_or_default().replace('-', "_"))
}

/// By the server's clock: from when it was asked for until the state shows that it rests.
#[tokio::test]
async fn a_pause_takes_effect_within_a_second() {
    let shop = shop().await;
    pgwraith::demo::orders::create_orders(&shop.client, 1_000).await.unwrap();
    let mut held = shop.held("copy", "orders", &["--rebuild"]).await;
    // What the run writes down is from the moment that it decided.
    shop.exec(
        "CREATE TABLE rested (at timestamptz); \
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO public.rested VALUES (clock_timestamp()); RETURN NEW; END $$; \
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON pgwraith.progress FOR EACH ROW \
           WHEN (NEW.facts->>'reason' = 'paused by the operator') EXECUTE FUNCTION public.note()",
    )
    .await;
    let mut shortest = f64::MAX;
    // Whoever else uses the machine may take any one of them its time.
    for _ in 0..5 {
        set(&shop, "pause=on").await;
        wait_for(&shop.client, &mut held.run, "it rests", "SELECT count(*) > 0 FROM rested").await;
        let took = "SELECT extract(epoch FROM min(r.at) - (SELECT max(e.at) FROM pgwraith.event e \
                    WHERE e.what = 'set'))::float8 FROM rested r";
        shortest = shortest.min(shop.value(took).await);
        if shortest <= 1.0 {
            break;
        }
        set(&shop, "pause=off").await;
        let goes = "SELECT facts->>'reason' <> 'paused by the operator' FROM pgwraith.progress";
        wait_for(&shop.client, &mut held.run, "it goes on", goes).await;
        shop.exec("TRUNCATE rested").await;
    }
    assert!(shortest <= 1.0, "it took {shortest} s each time");
}
