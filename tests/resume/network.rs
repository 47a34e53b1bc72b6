//! The network cuts, resets, delays and stalls connections; the server fails over; its disk is full.

use std::time::Duration;

use pgwraith::demo::cluster::Cluster;
use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use super::{CHANGE, TABLE, kill, nothing_is_lost, nothing_was_forgotten, resume};
use crate::harness::{self, Background, Output, Proxy, SmallDisk, When};
use crate::scene::{Held, SOON, Shop, shop, shop_with};

/// The arguments of a run that reaches its server through the proxy.
pub(super) fn through(shop: &Shop, proxy: &Proxy) -> Vec<String> {
    let dsn = proxy.dsn(&shop.dsn);
    let small = ["--chunk-rows", "300", "--chunk-time", "8ms"];
    let given = ["run", "orders", "-d", &dsn, "--json"];
    given.iter().chain(&CHANGE).chain(&small).map(|s| (*s).to_owned()).collect()
}

async fn traffic(shop: &Shop) -> Traffic {
    let mix = Mix { sessions: 3, rate: Some(60.0), ..Mix::default() };
    Traffic::start(&shop.dsn, TABLE, mix).await.unwrap()
}

fn went_on(output: &Output, what: &str) {
    assert_eq!(output.code, Some(0), "{what}: {output}");
    assert!(output.stderr.contains("going on from the state"), "{what}: {output}");
}

/// At COMMIT nobody knows what became of it: it is looked up.
#[tokio::test]
async fn connections_that_break_at_commit() {
    let mut shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    for (n, (role, when)) in [
        ("copy *", When::Before),
        ("copy *", When::After),
        ("sync *", When::Before),
        ("sync *", When::After),
        ("keeper", When::After),
        ("cutover", When::Before),
        ("cutover", When::After),
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 6_000).await.unwrap();
        let traffic = traffic(&shop).await;
        // The statement alone: BEGIN names READ COMMITTED too.
        let fault = proxy.cut_at(role, "*/ COMMIT", when);
        let run = Background::start(through(&shop, &proxy));
        fault.struck().await;
        let output = run.finish(SOON).await;
        let what = format!("{role} {when:?}");
        assert_eq!(output.code, Some(0), "{what}: {output}");
        // The cutover looks its outcome up itself.
        match (role, when) {
            ("cutover", When::After) => {
                assert_eq!(output.json()["cutover"]["attempts"], 1, "{what}: {output}")
            }
            ("cutover", When::Before) => {}
            _ => went_on(&output, &what),
        }
        nothing_was_forgotten(&output);
        nothing_is_lost(&shop, traffic).await;
    }
}

#[tokio::test]
async fn connections_that_are_cut_or_reset_in_any_phase() {
    let mut shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    for (n, (phase, role)) in [
        ("copy", "stream"),
        ("index", "keeper"),
        ("catch up", "stream"),
        ("catch up", "sync *"),
        ("verify", "fence"),
        ("verify", "control"),
        ("cutover", "stream"),
        ("cutover", "*"),
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 3_000).await.unwrap();
        let traffic = traffic(&shop).await;
        let held = Held::start(&shop, phase, through(&shop, &proxy)).await;
        let cut = match n % 2 {
            0 => proxy.cut(role).await,
            _ => proxy.reset(role).await,
        };
        assert!(cut > 0, "{phase}: no {role} is there");
        let output = held.finish().await;
        went_on(&output, &format!("{phase}: {role}"));
        nothing_was_forgotten(&output);
        nothing_is_lost(&shop, traffic).await;
    }
}

/// The server has answered, and nobody heard it: no error ever comes.
#[tokio::test]
async fn an_answer_that_never_arrives_is_noticed() {
    let shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let traffic = traffic(&shop).await;
    let mut held = Held::start(&shop, "verify", through(&shop, &proxy)).await;
    let stalled = proxy.stall("keeper");
    let more = async {
        while stalled.count() == 0 {
            shop.exec("SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000))").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    more.await;
    held.run.wait_for_saying("did not arrive").await;
    drop(stalled);
    let output = held.finish().await;
    went_on(&output, "stalled");
    nothing_was_forgotten(&output);
    nothing_is_lost(&shop, traffic).await;
}

#[tokio::test]
async fn a_slow_network_only_takes_longer() {
    let shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let traffic = traffic(&shop).await;
    let slow = proxy.delay("*", Duration::from_millis(8));
    let output = Background::start(through(&shop, &proxy)).finish(SOON).await.expect_code(0);
    assert!(slow.count() > 0);
    nothing_was_forgotten(&output);
    nothing_is_lost(&shop, traffic).await;
}

/// The standby knows all that was committed, and nothing of the slot.
#[tokio::test]
async fn a_standby_is_promoted_and_the_run_recovered_there() {
    let mut shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let standby = shop.cluster.standby(&[]).await.unwrap();
    let held = Held::start(&shop, "verify", through(&shop, &proxy)).await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    shop.cluster.crash().await.unwrap();
    standby.promote().await.unwrap();
    proxy.lead_to(standby.port());
    let output = held.run.finish(SOON).await.expect_code(1);
    for text in ["was promoted since (timeline 1 then, 2 now)", "--recover"] {
        assert!(output.stderr.contains(text), "{text}: {output}");
    }
    shop.dsn = standby.dsn("shop");
    shop.client = shop.session().await;
    shop.exec("DROP FUNCTION gate() CASCADE; UPDATE orders SET note = 'untold' WHERE id = 5").await;
    let output = resume(&shop, &["--take-over", "--recover"]).await.expect_code(0);
    assert_eq!(output.json()["recovered"]["mismatches"], 1, "{output}");
    assert_eq!(output.json()["rows_copied"], 0, "{output}");
    assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 5").await, "untold");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// A cluster whose logical streams wait for its standby, which keeps their slots too; and the standby.
async fn with_synchronized_standby() -> (Shop, Cluster) {
    let shop = shop_with(&[("synchronized_standby_slots", "sb")]).await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let refused = async |what: &str| {
        let output = shop.run("orders", &CHANGE).await.expect_code(3);
        let told = format!("synchronized_standby_slots names \"sb\", which {what}");
        assert!(output.stderr.contains(&told), "{output}");
    };
    refused("is no physical slot of this server").await;
    shop.exec("SELECT pg_create_physical_replication_slot('sb', true)").await;
    refused("is used by no standby now").await;
    let follows = [
        ("primary_slot_name", "sb"),
        ("hot_standby_feedback", "on"),
        ("sync_replication_slots", "on"),
    ];
    let standby = shop.cluster.standby(&follows).await.unwrap();
    standby.caught_up_with(&shop.cluster).await.unwrap();
    (shop, standby)
}

/// Our slot may fail over: it is there after the promotion. What it would have told of the last moments
/// before is not.
#[tokio::test]
async fn a_slot_that_survives_a_promotion_is_not_trusted() {
    if !harness::since(17) {
        return;
    }
    let (mut shop, standby) = with_synchronized_standby().await;
    let held = shop.held("verify", "orders", &CHANGE).await;
    assert!(held.run.said().contains("the stream waits for the standbys"), "{}", held.run.said());
    let there = harness::connect(&standby.dsn("shop")).await;
    let kept = "SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE synced AND NOT temporary)";
    harness::wait_for_sql(&there, "the standby has the slot", kept).await;
    kill(held).await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    shop.cluster.crash().await.unwrap();
    standby.promote().await.unwrap();
    shop.dsn = standby.dsn("shop");
    shop.client = shop.session().await;
    assert_eq!(shop.held_back().await.len(), 2, "slot and publication are here too");
    shop.exec("DROP FUNCTION gate() CASCADE; UPDATE orders SET note = 'untold' WHERE id = 5").await;
    // Its setting names a slot that only the old primary had.
    shop.exec("ALTER SYSTEM SET synchronized_standby_slots = ''").await;
    shop.exec("SELECT pg_reload_conf()").await;
    let output = resume(&shop, &["--take-over"]).await.expect_code(1);
    for text in ["was promoted since (timeline 1 then, 2 now)", "--recover"] {
        assert!(output.stderr.contains(text), "{text}: {output}");
    }
    let output = resume(&shop, &["--recover"]).await.expect_code(0);
    assert_eq!(output.json()["recovered"]["mismatches"], 1, "{output}");
    assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 5").await, "untold");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// A standby that goes down holds our stream up: that is told, and the run goes on when it is back.
#[tokio::test]
async fn a_stream_that_waits_for_a_standby_says_so() {
    if !harness::since(17) {
        return;
    }
    let (shop, mut standby) = with_synchronized_standby().await;
    let mut held = shop.held("verify", "orders", &CHANGE).await;
    standby.crash().await.unwrap();
    held.release().await;
    held.run.wait_for_saying("standbys of synchronized_standby_slots (sb)").await;
    standby.restart().await.unwrap();
    held.run.finish(SOON).await.expect_code(0);
}

/// Some room for the table's copy, and then none.
#[tokio::test]
async fn a_full_disk_stops_the_run_and_it_is_resumed() {
    let Some(disk) = SmallDisk::start(300 << 20, &[("max_wal_size", "64MB")]).await else { return };
    let dsn = harness::database(&disk.cluster, "shop").await;
    let client = harness::connect(&dsn).await;
    create_orders(&client, 100_000).await.unwrap();
    let arguments = |command: &str| {
        let mut given =
            vec![command.to_owned(), "orders".into(), "-d".into(), dsn.clone(), "--json".into()];
        given.extend(["--retry-for", "1s"].map(str::to_owned));
        given
    };
    let mut run = arguments("run");
    run.extend(CHANGE.map(str::to_owned));
    let mut running = Background::start(run);
    harness::wait_for_phase(&client, &mut running, "orders", "copy").await;
    disk.fill();
    let output = running.finish(SOON).await;
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("pgwraith resume"), "{output}");
    disk.free();
    let mut cluster: Cluster = disk.cluster;
    // PostgreSQL may have stopped for want of room for its log.
    if harness::try_connect(&dsn).await.is_none() {
        cluster.crash().await.unwrap();
        cluster.restart().await.unwrap();
    }
    let mut again = arguments("resume");
    again.push("--take-over".into());
    harness::run(again).await.expect_code(0);
    let client = harness::connect(&dsn).await;
    let count = "SELECT count(*) FROM orders";
    assert_eq!(crate::scene::value::<i64>(&client, count).await, 100_000);
}
