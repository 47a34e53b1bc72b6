//! Rows that do not fulfil what is asked of them are named, what is made stays, and the run goes on once they do.

use crate::harness::{Background, wait_for_sql};
use crate::scene::{SOON, exec, wait_for};

use super::{abort, alter_the_twin, arguments, resume, run, table};

#[tokio::test]
async fn rows_are_named_by_their_keys() {
    let mut shop = table().await;
    let cases = [
        (
            "UPDATE {s}.t SET a = -1 WHERE id IN (7, 900)",
            "ADD CHECK (a > 0)",
            "UPDATE {s}.t SET a = id",
        ),
        (
            "UPDATE {s}.t SET b = NULL WHERE id IN (7, 900)",
            "ALTER COLUMN b SET NOT NULL",
            "UPDATE {s}.t SET b = 'x' WHERE b IS NULL",
        ),
        (
            "UPDATE {s}.t SET k = 99 WHERE id IN (7, 900)",
            "ADD FOREIGN KEY (k) REFERENCES ours.p",
            "UPDATE {s}.t SET k = 1 WHERE k = 99",
        ),
        (
            "UPDATE {s}.t SET a = -1 WHERE id IN (7, 900); ALTER TABLE {s}.t ADD CONSTRAINT late CHECK (a > 0) NOT VALID",
            "VALIDATE CONSTRAINT late",
            "UPDATE {s}.t SET a = id",
        ),
        ("UPDATE {s}.t SET a = 7 WHERE id = 900", "ADD UNIQUE (a)", "UPDATE {s}.t SET a = id"),
    ];
    for (n, (wrong, alter, mended)) in cases.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        crate::twins::twins(&shop, super::ROWS).await;
        crate::twins::twins(&shop, wrong).await;
        let before = shop.definition("ours.t").await;
        let output = run(&shop, alter, &[]).await.expect_code(4);
        for told in ["id = 7", "id = 900", "pgwraith resume", "pgwraith abort"] {
            assert!(output.stderr.contains(told), "{told}: {output}");
        }
        let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
        assert_eq!(shop.value::<i64>(invalid).await, 0, "{alter}");
        if n == 0 {
            resume(&shop, &[]).await.expect_code(4);
            abort(&shop).await.expect_code(0);
            assert_eq!(shop.definition("ours.t").await, before, "{alter}");
            run(&shop, alter, &[]).await.expect_code(4);
        }
        crate::twins::twins(&shop, mended).await;
        resume(&shop, &[]).await.expect_code(0);
        alter_the_twin(&shop, alter).await;
        crate::twins::same(&shop, alter).await;
    }
}

/// What a build that was cut off has left is dropped before the next one: it may refuse rows.
#[tokio::test]
async fn an_invalid_index_that_was_left_is_dropped() {
    let shop = table().await;
    let invalid = "SELECT count(*) = 1 FROM pg_index WHERE NOT indisvalid";
    for resumed in [true, false] {
        let holder = shop.session().await;
        exec(&holder, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
        let mut waiting = Background::start(arguments(&shop, "ADD UNIQUE (a)", &[]));
        wait_for(&shop.client, &mut waiting, "it waits for the snapshot", invalid).await;
        waiting.signal(libc::SIGKILL);
        waiting.finish(SOON).await;
        // The server notices a moment later that nobody is there any more.
        let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
        wait_for_sql(&shop.client, "its sessions end", gone).await;
        assert!(shop.value::<bool>(invalid).await);
        exec(&holder, "COMMIT").await;
        if resumed {
            let output = resume(&shop, &["--take-over"]).await.expect_code(0);
            assert!(output.stderr.contains("invalid index \"t_a_key\" is dropped"), "{output}");
            assert!(!shop.value::<bool>(invalid).await, "{output}");
            shop.exec("ALTER TABLE ours.t DROP CONSTRAINT t_a_key").await;
        } else {
            abort(&shop).await.expect_code(0);
            crate::twins::same(&shop, "aborted").await;
        }
    }
    // One that somebody else has left is not ours to drop: it is told.
    shop.exec("UPDATE ours.t SET a = 7 WHERE id = 900").await;
    let build = "CREATE UNIQUE INDEX CONCURRENTLY t_a_key ON ours.t (a)";
    assert!(shop.client.batch_execute(build).await.is_err());
    shop.exec("UPDATE ours.t SET a = 900 WHERE id = 900").await;
    let output = run(&shop, "ADD UNIQUE (a)", &[]).await.expect_code(0);
    assert!(output.stderr.contains("invalid index ours.t_a_key"), "{output}");
    assert!(shop.value::<bool>("SELECT to_regclass('ours.t_a_key1') IS NOT NULL").await);
}
