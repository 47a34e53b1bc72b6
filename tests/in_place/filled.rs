//! What a default gives, and under whose names it is evaluated.

use super::{abort, run, table};

/// NULL is how a row is known that was not come to yet.
#[tokio::test]
async fn a_default_that_gives_null_is_named_and_taken_back() {
    let shop = table().await;
    shop.exec(
        "CREATE FUNCTION public.nothing() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )
    .await;
    for default in ["public.nothing()", "CASE WHEN random() < 0.1 THEN true END"] {
        let alter = format!("ADD COLUMN flag boolean DEFAULT {default}");
        let output = run(&shop, &alter, &[]).await.expect_code(4);
        for told in
            ["\"flag\" gives NULL", "without --in-place", "is filled in part", "pgwraith abort"]
        {
            assert!(output.stderr.contains(told), "{told}: {output}");
        }
        abort(&shop).await.expect_code(0);
        crate::twins::same(&shop, default).await;
    }
}

/// A default's function is executed as the operator's own session would.
#[tokio::test]
async fn a_default_may_use_names_that_are_not_qualified() {
    let shop = table().await;
    shop.exec(
        "CREATE SEQUENCE public.tokens; \
         CREATE FUNCTION public.token() RETURNS int8 LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('tokens'); END $$",
    )
    .await;
    run(&shop, "ADD COLUMN token int8 DEFAULT public.token()", &[]).await.expect_code(0);
    let tokens = "SELECT count(DISTINCT token) FROM ours.t";
    assert_eq!(shop.value::<i64>(tokens).await, 1000);
}
