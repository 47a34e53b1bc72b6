//! A run dies, and somebody's hands are faster than a resume or an abort: what is still there is found,
//! what is gone is no obstacle, and what is told is true.

use crate::harness::{self, Background, Output};
use crate::scene::{SOON, Shop, shop};

/// A run over `table` that dies at `point`.
async fn dies(shop: &Shop, table: &str, point: &str) {
    let small = ["--rebuild", "--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
    let run = Background::start_with(&[("FAILPOINTS", point)], shop.arguments(table, &small));
    let output = run.finish(SOON).await;
    assert_eq!(output.signal, Some(libc::SIGKILL), "{output}");
    let quiet = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%' \
                 AND datname = current_database())";
    harness::wait_for_sql(&shop.client, "the sessions end", quiet).await;
}

/// A table of 2000 rows that refers to another, and a run over it that died.
pub(super) async fn died(shop: &Shop, point: &str) {
    shop.exec(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1); \
         CREATE TABLE a1 (id int PRIMARY KEY, p int DEFAULT 1 REFERENCES p); \
         INSERT INTO a1 SELECT generate_series(1, 2000)",
    )
    .await;
    dies(shop, "a1", point).await;
}

pub(super) async fn command(shop: &Shop, arguments: &[&str]) -> Output {
    let given = ["-d", shop.dsn.as_str()];
    harness::run(arguments.iter().chain(&given)).await
}

/// A foreign key is left to be validated: nothing of that needs the slot, which holds WAL back.
#[tokio::test]
async fn what_a_swap_left_holds_nothing_back_and_is_done_by_whoever_has_the_name() {
    let shop = shop().await;
    died(&shop, "cutover committed=return").await;
    let listed = command(&shop, &["cleanup"]).await.expect_code(0);
    assert!(listed.stdout.contains("slot and publication can go"), "{listed}");
    assert_eq!(shop.held_back().await.len(), 2);
    let cleaned = command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    for text in ["slot and publication removed", "has 1 statement left to run"] {
        assert!(cleaned.stdout.contains(text), "{text}: {cleaned}");
    }
    assert_eq!(shop.held_back().await, [""; 0]);

    shop.exec("DROP TABLE a1_old").await;
    shop.run("a1", &["--rebuild"]).await.expect_code(0);
    let unproven = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(shop.value::<i64>(unproven).await, 1, "it was not valid when the second run began");
    command(&shop, &["resume", "a1"]).await.expect_code(0);
    assert_eq!(shop.value::<i64>(unproven).await, 0);
    command(&shop, &["resume", "a1"]).await.expect_code(2);
    let cleaned = command(&shop, &["cleanup"]).await.expect_code(0);
    assert!(cleaned.stdout.contains("nothing was left"), "{cleaned}");
}

/// Nobody can validate a key of a table that is gone: there is nothing left to be done.
#[tokio::test]
async fn what_a_swap_left_to_a_table_that_is_gone_is_done_with() {
    let mut shop = shop().await;
    for (n, gone) in
        ["DROP TABLE a1", "ALTER TABLE a1 DROP CONSTRAINT a1_p_fkey"].iter().enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        died(&shop, "cutover committed=return").await;
        shop.exec(gone).await;
        if n == 0 {
            command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
        } else {
            command(&shop, &["resume", "a1"]).await.expect_code(0);
        }
        // The server notices a moment later that a session is over.
        let quiet = async || harness::leftovers(&shop.client).await == ["schema pgwraith"];
        harness::wait_until("nothing is left", SOON, quiet).await;
        let none = command(&shop, &["cleanup"]).await.expect_code(0);
        assert!(none.stdout.contains("nothing was left"), "{gone}: {none}");
    }
}

/// So is a serial's sequence that nobody could give to the new column.
#[tokio::test]
async fn a_sequence_that_is_gone_is_given_to_nobody() {
    let shop = shop().await;
    shop.exec("CREATE TABLE \"S 1\" (\"I d\" serial PRIMARY KEY); INSERT INTO \"S 1\" VALUES (1)")
        .await;
    dies(&shop, "\"S 1\"", "cutover committed=return").await;
    let kept = command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    assert!(kept.stdout.contains("1 statement left"), "{kept}");
    shop.exec("DROP TABLE \"S 1\"").await;
    command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    let none = command(&shop, &["cleanup"]).await.expect_code(0);
    assert!(none.stdout.contains("nothing was left"), "{none}");
}

/// 400 rows are copied, and it died.
pub(super) const HALF: &str = "chunk committed=3*off->return";

/// Nothing is left of the run; the table, where it is there, is as it was.
pub(super) async fn nothing_is_left(shop: &Shop) {
    let gone = async || harness::leftovers(&shop.client).await.is_empty();
    harness::wait_until("nothing is left", SOON, gone).await;
}

/// It is another table, of which nothing was copied. What the run made is found by the name that the table
/// had.
#[tokio::test]
async fn a_table_that_was_made_anew_is_told_and_the_rest_of_the_run_is_aborted() {
    let mut shop = shop().await;
    let anew = "DROP TABLE a1; CREATE TABLE a1 (id int PRIMARY KEY); INSERT INTO a1 VALUES (7)";
    let renamed = "ALTER TABLE a1 RENAME TO b1; CREATE TABLE a1 (id int PRIMARY KEY); INSERT INTO a1 VALUES (7)";
    for (n, (sql, told)) in
        [(anew, "was dropped and created anew"), (renamed, "is called \"public\".\"b1\" now")]
            .into_iter()
            .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        died(&shop, HALF).await;
        shop.exec(sql).await;
        shop.run("a1", &["--rebuild"]).await.expect_code(3);
        let told_by = [
            shop.run("a1", &["--rebuild", "--or-resume"]).await.expect_code(6),
            command(&shop, &["resume", "a1"]).await.expect_code(6),
        ];
        for output in told_by {
            for text in [told, "`pgwraith abort a1` removes what is left"] {
                assert!(output.stderr.contains(text), "{text}: {output}");
            }
        }
        command(&shop, &["abort", "a1"]).await.expect_code(0);
        nothing_is_left(&shop).await;
        assert_eq!(shop.rows("a1").await, ["(7)"]);
        shop.run("a1", &["--rebuild"]).await.expect_code(0);
    }
}

/// A name is typed as in SQL, whether the table is still there or not.
#[tokio::test]
async fn a_table_that_is_gone_is_found_by_its_name_however_it_is_typed() {
    let mut shop = shop().await;
    let of_public =
        ["\"My Tab\"", "public.\"My Tab\"", "\"public\".\"My Tab\"", "PUBLIC . \"My Tab\""];
    for (n, typed) in of_public.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec("CREATE TABLE \"My Tab\" (id int PRIMARY KEY); INSERT INTO \"My Tab\" SELECT generate_series(1, 2000)").await;
        dies(&shop, "\"My Tab\"", HALF).await;
        shop.exec("DROP TABLE \"My Tab\"").await;
        for wrong in ["\"my tab\"", "My Tab", "other.\"My Tab\"", "\"", ""] {
            command(&shop, &["abort", wrong]).await.expect_code(2);
        }
        let gone = command(&shop, &["resume", typed]).await.expect_code(6);
        assert!(gone.stderr.contains("\"My Tab\" was dropped"), "{gone}");
        command(&shop, &["abort", typed]).await.expect_code(0);
        nothing_is_left(&shop).await;
    }

    // The one on the search path is meant; where none is, and there are two, which one must be said.
    shop.move_to("several").await;
    shop.exec("CREATE SCHEMA s1; CREATE SCHEMA s2").await;
    for schema in ["public", "s1", "s2"] {
        shop.exec(&format!(
            "CREATE TABLE {schema}.a (id int PRIMARY KEY); INSERT INTO {schema}.a SELECT generate_series(1, 2000)"
        ))
        .await;
        dies(&shop, &format!("{schema}.a"), HALF).await;
        shop.exec(&format!("DROP TABLE {schema}.a")).await;
    }
    let public = command(&shop, &["abort", "A"]).await.expect_code(0);
    assert!(public.stdout.contains("\"public\".\"a\""), "{public}");
    let which = command(&shop, &["abort", "a"]).await.expect_code(2);
    assert!(which.stderr.contains("in the schemas s1, s2"), "{which}");
    command(&shop, &["abort", "s2.a"]).await.expect_code(0);
    let only = command(&shop, &["abort", "a"]).await.expect_code(0);
    assert!(only.stdout.contains("\"s1\".\"a\""), "{only}");
    nothing_is_left(&shop).await;
}

/// The shadow is what the run made, wherever somebody moved it to; a table that has its name is not.
#[tokio::test]
async fn the_shadow_is_dropped_whatever_it_is_called_and_nothing_else_is() {
    let mut shop = shop().await;
    for (n, moved) in [
        "ALTER TABLE a1_v2 RENAME TO \"x y\"",
        "ALTER SCHEMA public RENAME TO elsewhere; CREATE SCHEMA public",
        "CREATE SCHEMA elsewhere; ALTER TABLE a1_v2 SET SCHEMA elsewhere",
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        died(&shop, HALF).await;
        shop.exec(moved).await;
        let aborted = command(&shop, &["abort", "public.a1"]).await.expect_code(0);
        assert!(aborted.stdout.contains("shadow (\""), "{aborted}");
        nothing_is_left(&shop).await;
        let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384";
        assert_eq!(shop.value::<i64>(tables).await, 2, "{moved}");
    }

    shop.move_to("replaced").await;
    died(&shop, HALF).await;
    shop.exec("DROP TABLE a1_v2; CREATE TABLE a1_v2 (mine int); INSERT INTO a1_v2 VALUES (1)")
        .await;
    let aborted = command(&shop, &["abort", "a1"]).await.expect_code(0);
    assert!(aborted.stdout.contains("not the one the run made: it is left"), "{aborted}");
    assert_eq!(shop.rows("a1_v2").await, ["(1)"]);

    // As in a database that was restored from a dump, state and all: the oid is another table's.
    shop.move_to("restored").await;
    died(&shop, HALF).await;
    shop.exec("DROP TABLE a1_v2; CREATE TABLE mine (id int, p int, more int); INSERT INTO mine VALUES (1, 2, 3); \
               UPDATE pgwraith.migration SET shadow_oid = 'mine'::regclass").await;
    let aborted = command(&shop, &["cleanup", "--yes"]).await.expect_code(0);
    assert!(aborted.stdout.contains("neither its name nor its columns: it is left"), "{aborted}");
    assert_eq!(shop.rows("mine").await, ["(1,2,3)"]);
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// What is in the way of one table is in nobody else's, and in that of no slot.
#[tokio::test]
async fn what_depends_on_a_shadow_is_named_and_spares_nothing_else() {
    let shop = shop().await;
    died(&shop, HALF).await;
    shop.exec("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b SELECT generate_series(1, 2000)")
        .await;
    dies(&shop, "b", HALF).await;
    shop.exec("CREATE VIEW vv AS SELECT * FROM a1_v2; CREATE VIEW ww AS SELECT * FROM a1_v2").await;
    let cleaned = command(&shop, &["cleanup", "--yes", "--json"]).await.expect_code(1);
    for text in [
        "view public.vv depends on table public.a1_v2",
        "view public.ww",
        "pgwraith abort",
        "1 of 2 could not",
    ] {
        assert!(cleaned.stderr.contains(text), "{text}: {cleaned}");
    }
    assert_eq!(cleaned.json()["outcome"], "failed");
    assert_eq!(cleaned.json()["leftovers"].as_array().unwrap().len(), 2);
    assert_eq!(shop.held_back().await, [""; 0]);
    let left = harness::leftovers(&shop.client).await;
    assert_eq!(left, ["schema pgwraith", "table a1_v2"]);

    let aborted = command(&shop, &["abort", "a1"]).await.expect_code(1);
    for text in [
        "view public.vv depends",
        "Slot and publication are gone",
        "the shadow and the state are left",
    ] {
        assert!(aborted.stderr.contains(text), "{text}: {aborted}");
    }
    assert!(!aborted.stderr.contains("2BP01"), "{aborted}");
    let cleaned = command(&shop, &["cleanup", "--yes"]).await.expect_code(1);
    assert!(cleaned.stdout.contains("; not removed"), "{cleaned}");
    assert!(!cleaned.stdout.contains("of WAL"), "{cleaned}");
    shop.exec("DROP VIEW vv, ww").await;
    command(&shop, &["abort", "a1"]).await.expect_code(0);
    nothing_is_left(&shop).await;
}

/// Somebody looks at the shadow, and does not end his transaction.
#[tokio::test]
async fn an_abort_says_for_whom_it_waits_and_holds_nothing_back_meanwhile() {
    let shop = shop().await;
    for arguments in [&["abort", "a1"][..], &["cleanup", "--yes"]] {
        shop.exec("DROP TABLE IF EXISTS a1, p").await;
        died(&shop, HALF).await;
        let reader = shop.session().await;
        reader.batch_execute("BEGIN; LOCK TABLE a1_v2 IN ACCESS SHARE MODE").await.unwrap();
        let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let mut waits = Background::start(arguments.iter().chain(&["-d", &shop.dsn]));
        waits.wait_for_saying("waits for the lock of").await;
        let user: String = shop.value("SELECT session_user::text").await;
        let said = waits.said();
        for text in [format!("pid {pid} {user} ("), "SELECT pg_backend_pid()".to_owned()] {
            assert!(said.contains(&text), "{text}: {said}");
        }
        assert_eq!(shop.held_back().await, [""; 0]);
        reader.batch_execute("COMMIT").await.unwrap();
        waits.finish(SOON).await.expect_code(0);
        nothing_is_left(&shop).await;
    }
}

/// Whoever ran the first migration made the state.
#[tokio::test]
async fn a_role_that_may_not_use_the_state_is_told_whose_it_is() {
    let shop = shop().await;
    died(&shop, HALF).await;
    let owner: String = shop.value("SELECT quote_ident(session_user)").await;
    shop.exec("CREATE ROLE \"App user\" LOGIN REPLICATION").await;
    let app = shop.dsn.replace("postgres@", "App%20user@");
    let refused = async |how: &str| {
        for arguments in
            [&["abort", "a1"][..], &["resume", "a1"], &["cleanup"], &["cleanup", "--yes"]]
        {
            let at = ["-d", &app];
            let output = harness::run(arguments.iter().chain(&at)).await.expect_code(3);
            let grant = format!("GRANT \"{owner}\" TO \"App user\", or connect as \"{owner}\"");
            for text in [&grant, "belongs to", "Nothing was changed"] {
                assert!(output.stderr.contains(text), "{how}: {text}: {output}");
            }
        }
    };
    refused("USAGE is everybody's").await;
    shop.exec("REVOKE USAGE ON SCHEMA pgwraith FROM PUBLIC").await;
    refused("not even that").await;
    // Who may only look is told what there is.
    shop.exec("GRANT USAGE ON SCHEMA pgwraith TO \"App user\"; GRANT SELECT ON ALL TABLES IN SCHEMA pgwraith TO \"App user\"").await;
    harness::run(["cleanup", "-d", &app]).await.expect_code(0);
    let abort = ["abort", "a1", "-d", &app];
    harness::run(abort).await.expect_code(3);
    assert_eq!(shop.held_back().await.len(), 2);
    shop.exec(&format!("GRANT {owner} TO \"App user\"")).await;
    harness::run(abort).await.expect_code(0);
    nothing_is_left(&shop).await;
}

/// The last migration takes the state with it: not from under one that begins at that moment.
#[tokio::test]
async fn a_migration_that_begins_while_the_last_is_undone_keeps_its_state() {
    let shop = shop().await;
    died(&shop, HALF).await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = to_regclass('pgwraith.migration') AND NOT granted)";
    let other = shop.session().await;
    let begins = "BEGIN; INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, retired_name, change) \
                  VALUES ('public', 'b', 1, 'b_v2', 'b_old', '{\"alters\": [], \"maps\": []}')";
    let begins = begins.replace("change)", "change, tool_version)").replace("}')", "}', '')");
    other.batch_execute(&begins).await.unwrap();
    let abort = Background::start(["abort", "a1", "-d", &shop.dsn]);
    harness::wait_for_sql(&shop.client, "the abort waits", waits).await;
    other.batch_execute("COMMIT").await.unwrap();
    abort.finish(SOON).await.expect_code(0);
    let known = "SELECT string_agg(source_name, ' ') FROM pgwraith.migration";
    assert_eq!(shop.value::<String>(known).await, "b");

    // Where the state went first, it is made anew.
    shop.exec("CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1)").await;
    other
        .batch_execute("BEGIN; LOCK pgwraith.migration IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let run = Background::start(shop.arguments("c", &["--rebuild"]));
    harness::wait_for_sql(&shop.client, "the run waits", waits).await;
    other.batch_execute("DROP SCHEMA pgwraith CASCADE; COMMIT").await.unwrap();
    run.finish(SOON).await.expect_code(0);
    assert_eq!(shop.value::<String>(known).await, "c");
}

/// Before the copy and after the swap, too: and nothing is touched, so that the state stays what it is.
#[tokio::test]
async fn a_copy_of_the_cluster_is_refused_in_every_phase() {
    let mut shop = shop().await;
    for (n, point) in
        ["slot recorded=return", HALF, "cutover committed=return"].into_iter().enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        died(&shop, point).await;
        let own = "SELECT m.system_identifier = s.system_identifier::text FROM pgwraith.migration m, pg_control_system() s";
        assert!(shop.value::<bool>(own).await);
        shop.exec("UPDATE pgwraith.migration SET system_identifier = '1'").await;
        let refused = command(&shop, &["resume", "a1"]).await.expect_code(3);
        assert!(refused.stderr.contains("is of another cluster"), "{point}: {refused}");
        let epoch = "SELECT epoch FROM pgwraith.migration";
        assert_eq!(shop.value::<i64>(epoch).await, 1, "{point}: {refused}");
        assert_eq!(shop.held_back().await.len(), 2, "{point}");
        command(&shop, &["abort", "a1"]).await.expect_code(0);
        assert_eq!(shop.held_back().await, [""; 0], "{point}");
    }
}
