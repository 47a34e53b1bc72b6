//! One connection of a run after another falls silent without an error, as behind a firewall that forgot it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use super::network::through;
use super::{TABLE, nothing_is_lost, nothing_was_forgotten};
use crate::harness::Proxy;
use crate::scene::{Held, SOON, shop};

/// A stream that says nothing is given up after a minute.
const NOTICED: Duration = Duration::from_secs(150);

/// What is used from the beginning of the phase on.
async fn is_noticed(phase: &str, role: &str) {
    let shop = shop().await;
    let proxy = Proxy::start(shop.cluster.port()).await;
    create_orders(&shop.client, 3_000).await.unwrap();
    let mix = Mix { sessions: 1, rate: Some(30.0), ..Mix::default() };
    let traffic = Traffic::start(&shop.dsn, TABLE, mix).await.unwrap();
    let mut held = Held::start(&shop, phase, through(&shop, &proxy)).await;
    let stalled = proxy.stall(role);
    held.release().await;
    let began = Instant::now();
    // Where it was of no use any more, the run may come to its end without.
    while !held.run.said().contains("going on from the state") && !held.run.has_ended() {
        assert!(began.elapsed() < NOTICED, "{phase}, {role}: {}", held.run.said());
        // The position is worth storing.
        shop.exec("SELECT pg_logical_emit_message(false, 'x', repeat('x', 200000))").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(stalled.count() > 0, "{phase}: no {role} is there");
    drop(stalled);
    let output = held.run.finish(SOON).await;
    assert_eq!(output.code, Some(0), "{phase}, {role}: {output}");
    nothing_was_forgotten(&output);
    nothing_is_lost(&shop, traffic).await;
}

/// All at once: they wait most of the time.
async fn are_noticed(all: &[(&str, &str)]) {
    join_all(all.iter().map(|(phase, role)| is_noticed(phase, role))).await;
}

#[tokio::test]
async fn any_connection_that_falls_silent_in_the_copy_is_noticed() {
    are_noticed(&[
        ("copy", "control"),
        ("copy", "stream"),
        ("copy", "plan"),
        ("copy", "copy 1"),
        ("copy", "slot"),
        ("copy", "watch"),
    ])
    .await;
}

#[tokio::test]
async fn any_connection_that_falls_silent_later_is_noticed() {
    are_noticed(&[
        ("index", "index *"),
        ("catch up", "sync *"),
        ("catch up", "fence"),
        ("verify", "verify *"),
        ("cutover", "observer"),
        ("cutover", "cutover"),
        ("verify", "watchdog"),
    ])
    .await;
}
