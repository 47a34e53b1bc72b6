//! A run dies, and somebody deletes its state or parts of it: what is left is found all the same, and what
//! is not known any more is not guessed.

use super::by_hand::{HALF, command, died, nothing_is_left};
use crate::harness::Output;
use crate::scene::{SOON, shop};

/// What holds the server back is named by the migration's id.
#[tokio::test]
async fn a_state_that_is_there_in_parts_hides_nothing() {
    let mut shop = shop().await;
    died(&shop, HALF).await;
    shop.exec("DELETE FROM pgwraith.flow").await;
    let listed = command(&shop, &["cleanup"]).await.expect_code(0);
    assert!(listed.stdout.contains("MB of WAL"), "{listed}");
    command(&shop, &["abort", "a1"]).await.expect_code(0);
    nothing_is_left(&shop).await;

    shop.move_to("resumed").await;
    died(&shop, HALF).await;
    shop.exec("DELETE FROM pgwraith.flow").await;
    let resumed = command(&shop, &["resume", "a1"]).await.expect_code(6);
    assert!(resumed.stderr.contains("took away parts of its state"), "{resumed}");
    assert_eq!(shop.held_back().await, [""; 0], "what it says: {resumed}");
    command(&shop, &["abort", "a1"]).await.expect_code(0);
    nothing_is_left(&shop).await;

    for (n, gone) in
        ["DROP SCHEMA pgwraith CASCADE", "DELETE FROM pgwraith.migration"].iter().enumerate()
    {
        shop.move_to(&format!("gone{n}")).await;
        died(&shop, HALF).await;
        shop.exec(gone).await;
        let refused = shop.run("a1", &["--rebuild"]).await.expect_code(3);
        assert!(refused.stderr.contains("DROP TABLE \"public\".\"a1_v2\""), "{refused}");
        assert!(!refused.stderr.contains("pgwraith abort"), "{refused}");
        let listed = command(&shop, &["cleanup"]).await.expect_code(0);
        let shadow = "table \"public\".\"a1_v2\", the unfinished shadow of migration";
        assert!(listed.stdout.contains(shadow), "{listed}");
        command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
        shop.run("a1", &["--rebuild"]).await.expect_code(0);
    }
}

/// What was copied of a range that the state does not know any more is not the data's fault.
#[tokio::test]
async fn a_copy_that_the_state_does_not_know_whole_goes_no_further() {
    let mut shop = shop().await;
    for (n, (which, told)) in [
        ("true", "0 of 4 are there"),
        ("number = 1", "3 of 4 are there"),
        ("number = 3", "3 of 4 are there"),
    ]
    .iter()
    .enumerate()
    {
        shop.move_to(&format!("some{n}")).await;
        died(&shop, HALF).await;
        shop.exec(&format!("DELETE FROM pgwraith.chunk WHERE {which}")).await;
        not_covered(&command(&shop, &["resume", "a1"]).await.expect_code(6), told);
        assert_eq!(shop.value::<i64>("SELECT count(*) FROM pgwraith.migration").await, 1);
        command(&shop, &["abort", "a1"]).await.expect_code(0);
        nothing_is_left(&shop).await;
    }

    shop.move_to("others").await;
    died(&shop, HALF).await;
    shop.exec("UPDATE pgwraith.chunk SET lower_key = upper_key WHERE number = 2").await;
    let output = command(&shop, &["resume", "a1"]).await.expect_code(6);
    not_covered(&output, "they do not follow each other");
}

/// Also where the run that copied them is alive.
#[tokio::test]
async fn a_copy_is_not_done_where_the_state_does_not_say_so() {
    let (shop, point, run) = super::in_the_fourth_chunk().await;
    shop.exec("DELETE FROM pgwraith.chunk WHERE number = 1").await;
    point.open().await;
    let output = run.finish(SOON).await.expect_code(6);
    not_covered(&output, " are there");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders").await, 2000);
}

fn not_covered(output: &Output, told: &str) {
    for text in ["rows of pgwraith.chunk", told, "the state is kept", "`pgwraith abort"] {
        assert!(output.stderr.contains(text), "{text}: {output}");
    }
}

/// What somebody renamed he may use; so may others what hangs on it.
#[tokio::test]
async fn a_shadow_that_no_state_knows_goes_only_where_it_is_nothing_else() {
    let shop = shop().await;
    died(&shop, HALF).await;
    shop.exec("DROP SCHEMA pgwraith CASCADE; ALTER TABLE a1_v2 RENAME TO mine").await;
    let kept = command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    assert!(
        kept.stdout.contains("may be in use. If it is not: DROP TABLE \"public\".\"mine\""),
        "{kept}"
    );
    shop.exec("ALTER TABLE mine RENAME TO a1_v2; CREATE VIEW v AS TABLE a1_v2").await;
    let kept = command(&shop, &["cleanup", "--yes"]).await.expect_code(1);
    assert!(kept.stderr.contains("view public.v depends on"), "{kept}");
    shop.exec("DROP VIEW v").await;
    let removed = command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    assert!(removed.stdout.contains("which no state knows; removed"), "{removed}");
    nothing_is_left(&shop).await;
    // A table that came to its end bears no mark.
    shop.run("a1", &["--rebuild"]).await.expect_code(0);
    let none = command(&shop, &["cleanup"]).await.expect_code(0);
    assert!(none.stdout.contains("nothing was left"), "{none}");
}
