//! What rows that are filled meet: constraints that they violate, triggers that fire on them, transactions of the
//! application.

use crate::harness::{Background, Output};
use crate::scene::{SOON, Shop, exec, wait_for};

use super::{arguments, as_its_twin, resume, run, table};

const TOKEN: &str = "ADD COLUMN token uuid DEFAULT gen_random_uuid()";

/// A run that is held just before it fills the first row.
async fn about_to_fill(shop: &Shop) -> Background {
    shop.exec("CREATE TABLE public.gate (n int); INSERT INTO public.gate VALUES (1)").await;
    let gate = ["--throttle-query", "SELECT n FROM public.gate", "--workers", "1"];
    let mut held = Background::start(arguments(shop, TOKEN, &gate));
    held.wait_for_saying("step 2 of 3: UPDATE").await;
    // It has looked for what fires once more, before it asks for the first range.
    let past = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/plan')";
    wait_for(&shop.client, &mut held, "the fill begins", past).await;
    held
}

async fn let_go(shop: &Shop) {
    shop.exec("UPDATE public.gate SET n = 0").await;
}

fn says(output: &Output, all: &[&str]) {
    for told in all {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
}

async fn none_is_filled(shop: &Shop) -> bool {
    shop.value("SELECT count(token) = 0 FROM ours.t").await
}

async fn goes_on_to_its_end(shop: &Shop) {
    resume(shop, &[]).await.expect_code(0);
    super::alter_the_twin(shop, TOKEN).await;
    as_its_twin(shop, "filled").await;
}

/// Rows that were there before a constraint that is NOT VALID need not fulfil it, and then cannot be updated.
#[tokio::test]
async fn a_constraint_that_old_rows_violate_is_named() {
    let shop = table().await;
    let wrong = "UPDATE {s}.t SET a = -1 WHERE id IN (7, 900)";
    crate::twins::twins(&shop, wrong).await;
    let check = "ALTER TABLE {s}.t ADD CONSTRAINT late CHECK (a > 0) NOT VALID";
    shop.exec(&check.replace("{s}", "ours")).await;
    let output = run(&shop, TOKEN, &[]).await.expect_code(3);
    let valid = "VALIDATE CONSTRAINT \"late\"";
    says(&output, &["\"late\"", valid, "without --in-place", "Nothing was touched"]);
    // What is added with it, before it, is no better.
    shop.exec("ALTER TABLE ours.t DROP CONSTRAINT late").await;
    let both = format!("ADD CONSTRAINT late CHECK (a > 0) NOT VALID, {TOKEN}");
    let output = run(&shop, &both, &[]).await.expect_code(3);
    says(&output, &["\"late\"", "behind the column"]);
    assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await);

    let held = about_to_fill(&shop).await;
    crate::twins::twins(&shop, check).await;
    let_go(&shop).await;
    let output = held.finish(SOON).await.expect_code(4);
    says(&output, &["\"late\"", "id = 7", "id = 900", "\"token\" in range", "pgwraith resume"]);
    crate::twins::twins(&shop, "UPDATE {s}.t SET a = id WHERE a < 0").await;
    goes_on_to_its_end(&shop).await;
}

/// What fires on UPDATE is asked for again by whoever goes on.
#[tokio::test]
async fn a_trigger_that_came_meanwhile_is_named_and_does_not_fire() {
    let shop = table().await;
    let held = about_to_fill(&shop).await;
    held.signal(libc::SIGINT);
    held.finish(SOON).await.expect_code(5);
    let_go(&shop).await;
    shop.exec(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := 'touched'; RETURN NEW; END $$; \
         CREATE TRIGGER touches BEFORE UPDATE ON ours.t FOR EACH ROW EXECUTE FUNCTION public.f()",
    )
    .await;
    let output = resume(&shop, &[]).await.expect_code(1);
    says(&output, &["trigger touches", "after the change was planned", "pgwraith resume"]);
    assert!(none_is_filled(&shop).await);
    shop.exec("DROP TRIGGER touches ON ours.t").await;
    goes_on_to_its_end(&shop).await;
}

/// One that comes even later, and has rows stay as they are, does not keep it looking for them for ever.
#[tokio::test]
async fn rows_that_are_kept_from_being_filled_end_it() {
    let shop = table().await;
    let held = about_to_fill(&shop).await;
    shop.exec(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER keeps BEFORE UPDATE ON ours.t FOR EACH ROW WHEN (OLD.id > 3) EXECUTE FUNCTION public.f()",
    )
    .await;
    let_go(&shop).await;
    let output = held.finish(SOON).await.expect_code(1);
    says(&output, &["rows 3 were filled", "trigger or rule", "pgwraith resume"]);
    // What was filled in that transaction is not, either.
    assert!(none_is_filled(&shop).await);
    shop.exec("DROP TRIGGER keeps ON ours.t").await;
    goes_on_to_its_end(&shop).await;
}

/// As plan says.
#[tokio::test]
async fn an_older_snapshot_cannot_update_what_was_filled() {
    let shop = table().await;
    let older = shop.session().await;
    exec(&older, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ours.p").await;
    run(&shop, TOKEN, &[]).await.expect_code(0);
    let late = older.batch_execute("UPDATE ours.t SET b = 'late' WHERE id = 7").await.unwrap_err();
    assert_eq!(late.code().map(|code| code.code()), Some("40001"), "{late}");
}
