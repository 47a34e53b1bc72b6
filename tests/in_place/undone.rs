//! An abort takes back what the steps have made.

use crate::harness::{self, Background};
use crate::scene::{SOON, exec};

use super::{abort, arguments, table};

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_table_is_as_it_was_wherever_the_run_died() {
    let mut shop = table().await;
    // The last of them before all is done.
    let points = ["fill committed=return", "index made=return", "step made=6*off->return"];
    for (n, point) in points.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        crate::twins::twins(&shop, super::ROWS).await;
        let dying = Background::start_with(
            &[("FAILPOINTS", point)],
            arguments(&shop, crate::in_place::ALL_KINDS, &[]),
        );
        let output = dying.finish(SOON).await;
        assert_eq!(output.signal, Some(9), "{point}: {output}");
        let output = abort(&shop).await.expect_code(0);
        assert_eq!(output.json()["outcome"], "aborted", "{point}: {output}");
        crate::twins::same(&shop, point).await;
        assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await, "{point}");
        abort(&shop).await.expect_code(2);
    }
}

/// A run that is alive undoes itself; what was typed and has no inverse here is named.
#[tokio::test]
async fn what_was_typed_stays_and_is_named() {
    let shop = table().await;
    let alter = "ALTER COLUMN b SET DEFAULT 'x', ADD COLUMN token uuid DEFAULT gen_random_uuid(), ADD CHECK (a > 0)";
    let holder = shop.session().await;
    shop.exec("CREATE TABLE public.gate (n int); INSERT INTO public.gate VALUES (1)").await;
    let gate = ["--throttle-query", "SELECT n FROM public.gate"];
    let mut held = Background::start(arguments(&shop, alter, &gate));
    held.wait_for_saying("step 3 of 6: UPDATE").await;
    exec(&holder, "BEGIN; SELECT FROM ours.t WHERE id = 500 FOR UPDATE").await;
    shop.exec("UPDATE public.gate SET n = 0").await;
    held.wait_for_saying("rows that are not filled yet are locked by others").await;
    // Nobody waits for that but the fill.
    exec(&shop.client, "SET lock_timeout = '1s'; UPDATE ours.t SET a = a WHERE id <> 500").await;
    let asked = shop.value::<String>("SELECT pgwraith.abort('ours.t')").await;
    assert!(asked.contains("undoes itself"), "{asked}");
    exec(&holder, "COMMIT").await;
    let output = held.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("SET DEFAULT 'x'"), "{output}");
    shop.exec("ALTER TABLE twin.t ALTER COLUMN b SET DEFAULT 'x'").await;
    crate::twins::same(&shop, "aborted").await;
    assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await);
}

/// What depends on a column by now is not dropped with it.
#[tokio::test]
async fn what_hangs_on_it_by_now_is_named() {
    let shop = table().await;
    let alter = "ADD COLUMN token uuid DEFAULT gen_random_uuid(), ADD CHECK (a > 1)";
    super::run(&shop, alter, &[]).await.expect_code(4);
    shop.exec("CREATE VIEW ours.v AS SELECT token FROM ours.t").await;
    let output = abort(&shop).await.expect_code(1);
    assert!(
        output.stderr.contains("view") && output.stderr.contains("the state is kept"),
        "{output}"
    );
    // Nor over SQL, which has no short locks, and asks a run that is there.
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
    let refused = shop.client.batch_execute("SELECT pgwraith.abort('ours.t')").await;
    assert!(refused.is_err());
    shop.exec("DROP VIEW ours.v").await;
    let output = harness::run(["cleanup", "-d", &shop.dsn, "--yes"]).await.expect_code(0);
    assert!(output.stdout.contains("in place"), "{output}");
    crate::twins::same(&shop, "cleaned up").await;
}

/// What cannot be brought back is dropped once nothing can fail any more.
#[tokio::test]
async fn nothing_is_dropped_before_the_rest_is_done() {
    let shop = table().await;
    let alter = "DROP COLUMN b, ADD CONSTRAINT c CHECK (a > 1)";
    super::run(&shop, alter, &[]).await.expect_code(4);
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
    shop.exec("UPDATE ours.t SET a = 2 WHERE a = 1; UPDATE twin.t SET a = 2 WHERE a = 1").await;
    super::run(&shop, alter, &[]).await.expect_code(0);
    super::alter_the_twin(&shop, alter).await;
    crate::twins::same(&shop, "done").await;
}

/// Under another name it is left alone, and what is made in it is not forgotten.
#[tokio::test]
async fn a_table_that_was_renamed_keeps_its_state() {
    let shop = table().await;
    super::run(&shop, "ADD CHECK (a > 1)", &[]).await.expect_code(4);
    shop.exec("ALTER TABLE ours.t RENAME TO other").await;
    let output = abort(&shop).await.expect_code(1);
    for told in ["\"ours\".\"other\"", "the state is kept", "its name back"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    shop.exec("ALTER TABLE ours.other RENAME TO t").await;
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
}

/// An index that somebody made under the name of ours is his.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_index_of_somebody_else_stays() {
    let shop = table().await;
    let died = Background::start_with(
        &[("FAILPOINTS", "index made=return")],
        arguments(&shop, crate::in_place::ALL_KINDS, &[]),
    );
    assert_eq!(died.finish(SOON).await.signal, Some(9));
    shop.exec("DROP INDEX ours.t_a_key; CREATE INDEX t_a_key ON ours.t (b)").await;
    abort(&shop).await.expect_code(0);
    shop.exec("CREATE INDEX t_a_key ON twin.t (b)").await;
    crate::twins::same(&shop, "aborted").await;
}

/// A key that was typed stays, and with it that its columns have values.
#[tokio::test]
async fn what_a_typed_key_needs_stays_with_it() {
    let mut shop = table().await;
    let key = "ADD PRIMARY KEY USING INDEX t_a";
    let cases = [
        ("ALTER TABLE {s}.t DROP CONSTRAINT t_pkey; CREATE UNIQUE INDEX t_a ON {s}.t (a)", key),
        ("CREATE UNIQUE INDEX t_a ON {s}.t (a)", "REPLICA IDENTITY USING INDEX t_a"),
        ("", "ALTER COLUMN a ADD GENERATED BY DEFAULT AS IDENTITY"),
    ];
    for (n, (before, typed)) in cases.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        crate::twins::twins(&shop, super::ROWS).await;
        crate::twins::twins(&shop, before).await;
        let alter = format!("ALTER COLUMN a SET NOT NULL, {typed}, ADD CHECK (k > 1)");
        super::run(&shop, &alter, &[]).await.expect_code(4);
        let output = abort(&shop).await.expect_code(0);
        assert!(
            output.stdout.contains("SET NOT NULL") || output.stdout.contains("NOT VALID"),
            "{output}"
        );
        // The key's columns are NOT NULL with it.
        shop.exec(&format!("ALTER TABLE twin.t ALTER COLUMN a SET NOT NULL, {typed}")).await;
        crate::twins::same(&shop, typed).await;
    }
    // A key that is built here goes, and NOT NULL before it.
    shop.move_to("built").await;
    crate::twins::twins(&shop, super::ROWS).await;
    crate::twins::twins(&shop, "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey").await;
    super::run(&shop, "ADD PRIMARY KEY (a), ADD CHECK (k > 1)", &[]).await.expect_code(4);
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "built").await;
}

/// A column is known by its number: its name may be another's by now.
#[tokio::test]
async fn what_was_renamed_meanwhile_is_not_taken_for_ours() {
    let shop = table().await;
    let alters = [
        "ADD COLUMN s int DEFAULT (random() * 5)::int",
        "RENAME COLUMN s TO ss",
        "RENAME COLUMN b TO s",
        "ADD CHECK (a > 1)",
    ];
    let mut given = arguments(&shop, alters[0], &[]);
    given.extend(alters[1..].iter().flat_map(|alter| ["--alter".to_owned(), (*alter).to_owned()]));
    harness::run(given).await.expect_code(4);
    // By hand as well.
    shop.exec(
        "ALTER TABLE ours.t RENAME COLUMN k TO sss; ALTER TABLE ours.t RENAME COLUMN ss TO k",
    )
    .await;
    abort(&shop).await.expect_code(0);
    shop.exec("ALTER TABLE ours.t RENAME COLUMN s TO b; ALTER TABLE ours.t RENAME COLUMN sss TO k")
        .await;
    crate::twins::same(&shop, "aborted").await;
    let differ = "SELECT count(*) FROM (TABLE ours.t EXCEPT TABLE twin.t) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
}

/// With a column its index goes.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_index_of_a_column_that_goes_is_no_obstacle() {
    let shop = table().await;
    let alter = "ADD COLUMN u uuid DEFAULT gen_random_uuid() UNIQUE";
    crate::scene::dies_at("index made", 1, arguments(&shop, alter, &[])).await;
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
}
