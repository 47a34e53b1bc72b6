//! Locks that are not had are given back, and the operator has a hand on it.

use crate::harness::{self, Background};
use crate::scene::{SOON, exec, wait_for};

use super::{ALL_KINDS, alter_the_twin, arguments, as_its_twin, table};

#[tokio::test]
async fn a_lock_that_is_not_had_is_given_back() {
    let shop = table().await;
    let (holder, writer) = (shop.session().await, shop.session().await);
    exec(&holder, "BEGIN; SELECT count(*) FROM ours.t").await;
    let mut waiting = Background::start(arguments(&shop, ALL_KINDS, &[]));
    waiting.wait_for_saying("the change waits: ").await;
    let long = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' \
                AND xact_start < clock_timestamp() - interval '1100 ms')";
    wait_for(&shop.client, &mut waiting, "the transaction is long", long).await;
    waiting.wait_for_saying("a long transaction uses the table").await;
    // Whoever comes meanwhile does not wait for us.
    exec(&writer, "SET lock_timeout = '1s'; UPDATE ours.t SET b = b WHERE id = 1").await;
    exec(&holder, "COMMIT").await;
    let output = waiting.finish(SOON).await.expect_code(0);
    let attempts = output.json()["made"][0]["lock"]["attempts"].as_u64();
    assert!(attempts.is_some_and(|n| n >= 1), "{output}");
    alter_the_twin(&shop, ALL_KINDS).await;
    as_its_twin(&shop, "waited").await;
}

#[tokio::test]
async fn it_rests_is_shown_and_goes_on() {
    let shop = table().await;
    // A state of the version before there were steps is brought up to date.
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(
        "DROP TABLE pgwraith.step CASCADE; CREATE VIEW pgwraith.status AS SELECT 1 AS id; \
         UPDATE pgwraith.schema_version SET version = 7",
    )
    .await;
    let mut resting = Background::start(arguments(&shop, ALL_KINDS, &["--pause"]));
    let begun = "SELECT to_regclass('pgwraith.step') IS NOT NULL";
    wait_for(&shop.client, &mut resting, "it begins", begun).await;
    let shown = "SELECT EXISTS (SELECT 1 FROM pgwraith.status s WHERE s.step = 1 AND s.paused \
                 AND s.reason LIKE 'paused%' AND s.shadow IS NULL)";
    wait_for(&shop.client, &mut resting, "it rests", shown).await;
    let status = harness::run(["status", "ours.t", "-d", &shop.dsn]).await.expect_code(0);
    for told in [
        "ours.t   IN PLACE step 1 of ",
        "table in use: safe to stop",
        "it is paused",
        "step: ALTER TABLE",
    ] {
        assert!(status.stdout.contains(told), "{told}: {status}");
    }
    let other = harness::run(["run", "ours.t", "-d", &shop.dsn, "--rebuild"]).await.expect_code(3);
    assert!(other.stderr.contains("phase in place"), "{other}");
    harness::run(["set", "ours.t", "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    resting.finish(SOON).await.expect_code(0);
    let events = "SELECT count(*) FILTER (WHERE what = 'step') = count(*) FILTER (WHERE what = 'step done') \
                  AND bool_or(what = 'finished') AND bool_or(what = 'set') FROM pgwraith.event";
    assert!(shop.value::<bool>(events).await);
    let none = harness::run(["status", "-d", &shop.dsn]).await.expect_code(0);
    assert!(none.stdout.contains("no migration is under way"), "{none}");
    alter_the_twin(&shop, ALL_KINDS).await;
    as_its_twin(&shop, "rested").await;
}
