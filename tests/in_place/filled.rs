//! What a default gives, and under whose names it is evaluated.

use crate::harness::Background;
use crate::scene::{SOON, exec};

use super::{abort, arguments, resume, run, table};

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

/// Whoever writes NULL himself does not keep it looking for ever. Here it is the default's function, which empties a
/// row for each that it fills.
#[tokio::test]
async fn who_writes_null_meanwhile_does_not_keep_it_from_ending() {
    let mut shop = table().await;
    let function = |empties: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION public.token() RETURNS int8 LANGUAGE plpgsql AS $$ \
             DECLARE n int8 := nextval('public.tokens'); BEGIN {empties} RETURN n; END $$"
        )
    };
    let least = "UPDATE ours.t SET token = NULL WHERE id = (SELECT min(id) FROM ours.t WHERE token IS NOT NULL);";
    shop.exec(&format!("CREATE SEQUENCE public.tokens; {}", function(least))).await;
    let alter = "ADD COLUMN token int8 DEFAULT public.token()";
    let output = run(&shop, alter, &["--workers", "1"]).await.expect_code(0);
    assert!(output.stderr.contains("somebody writes NULL into it all the time"), "{output}");
    // The ranges, and three looks that found all the others empty.
    assert_eq!(shop.value::<i64>("SELECT count(token) FROM ours.t").await, 1);
    let asked: i64 = shop.value("SELECT last_value FROM public.tokens").await;
    assert!((3997..6000).contains(&asked), "more than three looks: {asked}");

    // More than a look names, and emptied faster than they are filled: not one look sees them all filled.
    shop.move_to("faster").await;
    crate::twins::twins(&shop, super::ROWS).await;
    let eight = "UPDATE ours.t SET token = NULL WHERE id BETWEEN n * 8 % 8000 AND n * 8 % 8000 + 7 AND token IS NOT NULL;";
    shop.exec(&format!(
        "INSERT INTO ours.t SELECT n, n FROM generate_series(1001, 8000) n; ANALYZE ours.t; CREATE SEQUENCE public.tokens; {}",
        function(eight)
    ))
    .await;
    let output = run(&shop, alter, &["--workers", "1"]).await.expect_code(1);
    assert!(output.stderr.contains("NULL into it faster than it is filled"), "{output}");
    shop.exec(&function("")).await;
    resume(&shop, &[]).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(DISTINCT token) FROM ours.t").await, 8000);
}

/// Nobody waits for longer than he may, at the end neither: what takes too long at once is done in smaller parts. Here
/// each row takes its time.
#[tokio::test]
async fn what_takes_too_long_is_filled_in_parts_that_are_short() {
    let shop = table().await;
    shop.exec(
        "CREATE TABLE public.pace (s float8); INSERT INTO public.pace VALUES (0.002); CREATE SEQUENCE public.tokens; \
         CREATE FUNCTION public.token() RETURNS int8 LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(s) FROM public.pace; \
           RETURN nextval('public.tokens'); END $$; \
         CREATE TABLE public.gate (n int); INSERT INTO public.gate VALUES (1)",
    )
    .await;
    let flags = ["--max-lock-hold", "100ms", "--throttle-query", "SELECT n FROM public.gate"];
    let alter = "ADD COLUMN token int8 DEFAULT public.token()";
    let holder = shop.session().await;
    let mut held = Background::start(arguments(&shop, alter, &flags));
    held.wait_for_saying("step 2 of 3: UPDATE").await;
    exec(&holder, "BEGIN; SELECT FROM ours.t WHERE id <= 150 FOR UPDATE").await;
    shop.exec("UPDATE public.gate SET n = 0").await;
    held.wait_for_saying("rows that are not filled yet are locked by others").await;
    // Not one row can be filled in time: that ends it.
    shop.exec("UPDATE public.pace SET s = 0.3").await;
    exec(&holder, "COMMIT").await;
    let output = held.finish(SOON).await.expect_code(1);
    for told in ["one row takes longer", "--max-lock-hold (100 ms)", "pgwraith resume"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    // A hundred cannot, and fewer can.
    shop.exec("UPDATE public.pace SET s = 0.004").await;
    resume(&shop, &[]).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(DISTINCT token) FROM ours.t").await, 1000);
}
