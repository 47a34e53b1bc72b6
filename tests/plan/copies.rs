//! What plan finds out of a copy: rows that would not fit, locks, whom it concerns.

use super::{KID, make_ground, plan};
use crate::harness::Output;
use crate::scene::{Shop, exec, shop, value};

fn notes(output: &Output) -> String {
    output.json()["notes"].to_string()
}

/// Not only the first one: rows from all over the table.
#[tokio::test]
async fn rows_that_do_not_fit_are_named() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    shop.exec(
        "DELETE FROM s.t WHERE id > 400; UPDATE s.t SET a = 40000, d = 3 WHERE id IN (77, 399)",
    )
    .await;
    let narrow =
        ["--alter", "ALTER COLUMN a TYPE smallint", "--alter", "ALTER COLUMN id TYPE bigint"];
    let output = plan(&shop, &narrow).await.expect_code(0);
    for told in ["of 400 rows", "id = 77: ", "id = 399: ", "smallint out of range"] {
        assert!(notes(&output).contains(told), "{told}: {output}");
    }
    let mapped = ["--rebuild", "--map", "e = 100 / (d::int - 5)"];
    let output = plan(&shop, &mapped).await.expect_code(0);
    assert!(notes(&output).contains("id = 5: "), "{output}");
    assert!(notes(&output).contains("division by zero"), "{output}");
    // What is checked on the new table is, too.
    let checked = ["--rebuild", "--alter", "ADD CHECK (a < 40000)"];
    let output = plan(&shop, &checked).await.expect_code(0);
    assert!(notes(&output).contains("id = 77: "), "{output}");
    let output = plan(&shop, &["--rebuild"]).await.expect_code(0);
    assert!(
        notes(&output).contains("400 rows from all over the table were tried: they fit"),
        "{output}"
    );
}

#[tokio::test]
async fn settings_that_values_depend_on_are_told() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    shop.exec("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Tokyo'").await;
    let output = plan(&shop, &["--rebuild", "--map", "b = tz::date::text"]).await.expect_code(0);
    for told in ["what b gets is STABLE", "TimeZone = Asia/Tokyo"] {
        assert!(notes(&output).contains(told), "{told}: {output}");
    }
    let output = plan(&shop, &["--rebuild", "--map", "b = upper(b)"]).await.expect_code(0);
    assert!(!notes(&output).contains("STABLE"), "{output}");
}

/// What a default takes from a sequence would be gone: such rows are not tried.
#[tokio::test]
async fn no_sequence_is_touched() {
    let shop = shop().await;
    make_ground(&shop, "CREATE SEQUENCE s.numbers").await;
    let numbered = ["--alter", "ADD COLUMN n bigint NOT NULL DEFAULT nextval('s.numbers')"];
    let output = plan(&shop, &numbered).await.expect_code(0);
    assert!(!notes(&output).contains("were tried"), "{output}");
    assert!(!shop.value::<bool>("SELECT is_called FROM s.numbers").await);
}

/// The strongest lock on `s.t` that `sql` takes, without spaces.
async fn lock_of(shop: &Shop, sql: &str) -> String {
    let other = shop.session().await;
    exec(&other, &format!("BEGIN; {sql}")).await;
    let strongest = "SELECT upper(left(mode, -4)) FROM pg_locks WHERE relation = 's.t'::regclass AND pid = pg_backend_pid() \
        ORDER BY array_position('{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock}', mode) DESC LIMIT 1";
    value(&other, strongest).await
}

#[tokio::test]
async fn the_locks_of_each_phase_are_those_that_it_takes() {
    let shop = shop().await;
    make_ground(&shop, KID).await;
    let output = plan(&shop, &["--rebuild"]).await.expect_code(0);
    let json = output.json();
    let phases = json["copy"]["phases"].as_array().unwrap();
    let of = |phase: &str| phases.iter().find(|p| p["phase"] == phase).unwrap();
    let told = |phase: &str| of(phase)["locks"][0].as_str().unwrap_or_default().replace(' ', "");
    let sql = of("prepare")["sql"][0].as_str().unwrap();
    assert!(sql.starts_with("CREATE PUBLICATION"), "{sql}");
    assert!(told("prepare").starts_with(&lock_of(&shop, sql).await), "{output}");
    let read = lock_of(&shop, "SELECT count(*) FROM s.t").await;
    for phase in ["copy", "catch up", "verify"] {
        assert!(told(phase).starts_with(&read), "{phase}: {output}");
    }
    // `s.t` is the one that is referred to.
    let validated = "ALTER TABLE s.kid VALIDATE CONSTRAINT kid_t";
    exec(&shop.client, "UPDATE pg_constraint SET convalidated = false WHERE conname = 'kid_t'")
        .await;
    let lock = lock_of(&shop, validated).await;
    assert!(told("validate").contains(&format!("and{lock}onthe")), "{lock}: {output}");
    let text = crate::harness::run(["plan", "s.t", "-d", &shop.dsn, "--rebuild"]).await;
    assert!(
        text.stdout.contains("lock: SHARE UPDATE EXCLUSIVE on \"s\".\"t\", for a moment"),
        "{text}"
    );
}

#[tokio::test]
async fn who_decodes_the_log_is_told_and_what_is_of_a_copy_is_marked() {
    let shop = shop().await;
    make_ground(&shop, "").await;
    shop.exec("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')").await;
    let copy = plan(&shop, &["--rebuild"]).await.expect_code(0);
    assert!(copy.json()["clients"].to_string().contains("cdc (pgoutput)"), "{copy}");
    let careful = plan(&shop, &["--alter", "ALTER COLUMN b SET NOT NULL"]).await.expect_code(0);
    let clients = careful.json()["clients"].to_string();
    assert!(clients.contains("without --in-place, by a copy: the logical slots cdc"), "{careful}");
    let instant = plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(0);
    let clients = instant.json()["clients"].to_string();
    assert!(clients.contains("SELECT * gives") && !clients.contains("cdc"), "{instant}");
    // Where a copy is refused what clients see is told as well.
    shop.exec("ALTER TABLE s.t DROP CONSTRAINT t_pkey").await;
    let instant = plan(&shop, &["--alter", "ADD COLUMN n int"]).await.expect_code(0);
    assert!(instant.json()["clients"].to_string().contains("SELECT * gives"), "{instant}");
}
