//! What `pgwraith status` tells, from any session, of a run that is under way and of one that is not.

use pgwraith::demo::orders::create_orders;

use crate::harness::{self, Output};
use crate::scene::{SOON, Shop, exec, shop};

async fn status(shop: &Shop, more: &[&str]) -> Output {
    let given = ["status", "-d", &shop.dsn];
    harness::run(given.iter().chain(more)).await
}

/// The first migration's own words, once they say that.
async fn until_it_says(shop: &Shop, text: &str) -> String {
    let last = std::cell::RefCell::new(String::new());
    let says = async || {
        let output = status(shop, &["orders"]).await.expect_code(0);
        *last.borrow_mut() = output.stdout;
        last.borrow().contains(text)
    };
    harness::wait_until(text, SOON, says).await;
    last.into_inner()
}

#[tokio::test]
async fn a_run_is_shown_with_what_it_holds_and_who_is_needed() {
    let shop = shop().await;
    let none = status(&shop, &[]).await.expect_code(0);
    assert!(none.stdout.contains("no migration is under way"), "{none}");
    create_orders(&shop.client, 20_000).await.unwrap();
    let slow = ["--rebuild", "--pause", "--chunk-rows", "300", "--chunk-time", "3ms"];
    let held = shop.held("copy", "orders", &slow).await;
    held.release().await;
    let told = until_it_says(&shop, "in the last minute; paused by the operator").await;
    for text in [
        "public.orders → public.orders_v2   COPY 0 %   application OK   old table in use: safe to stop",
        "run by process ",
        "needs you: it is paused",
        "we hold: slot pgwraith_",
        "no lock that anybody waits for on public.orders",
        "pause: pgwraith set public.orders pause=off    abort: pgwraith abort public.orders",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }

    // Somebody keeps it waiting.
    let other = shop.session().await;
    exec(&other, "BEGIN; LOCK TABLE orders_v2 IN ACCESS EXCLUSIVE MODE").await;
    harness::run(["set", "orders", "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    let told = until_it_says(&shop, "keeps it waiting").await;
    assert!(told.contains("LOCK TABLE orders_v2"), "{told}");
    let object = status(&shop, &["--json"]).await.expect_code(0);
    let one = &object.json()["migrations"][0];
    assert_eq!((&one["phase"], &one["source"]), (&"copy".into(), &"public.orders".into()));
    assert_eq!(one["blocked_by"].as_array().unwrap().len(), 1, "{object}");

    held.run.signal(libc::SIGKILL);
    exec(&other, "COMMIT").await;
    held.run.finish(SOON).await;
    let told =
        until_it_says(&shop, "needs you: nobody runs it: `pgwraith resume public.orders`").await;
    assert!(told.contains("we hold: slot"), "{told}");
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    status(&shop, &["orders"]).await.expect_code(2);
}

/// A view for those who may only look, also from psql.
#[tokio::test]
async fn whoever_monitors_sees_it_without_any_other_right() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &["--rebuild"]).await;
    shop.exec("CREATE ROLE monitor IN ROLE pg_monitor; SET ROLE monitor").await;
    let seen = "SELECT phase || ' ' || source || ' ' || rows_copied FROM pgwraith.status";
    assert_eq!(shop.value::<String>(seen).await, "verify public.orders 1000");
    shop.exec("RESET ROLE").await;
    held.finish().await.expect_code(0);
    assert_eq!(shop.value::<String>("SELECT outcome FROM pgwraith.status").await, "swapped");
}
