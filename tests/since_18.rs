//! What PostgreSQL 18 brought for tables: carried over, or refused by name.

use crate::harness;
use crate::scene::shop;
use crate::twins::{alter_alike, same, twins};

/// Names of NOT NULL constraints, columns that are computed when they are read.
const CARRIED: &str = r#"
    CREATE SCHEMA {s};
    CREATE TABLE {s}.t (
      gone int,
      id int CONSTRAINT "the id's" NOT NULL,
      n int CONSTRAINT has_n NOT NULL DEFAULT 7,
      plain int NOT NULL,
      "V" int GENERATED ALWAYS AS (n * 2) VIRTUAL,
      seen text COLLATE "C" GENERATED ALWAYS AS ('n is ' || n) CONSTRAINT "always seen" NOT NULL,
      kept int GENERATED ALWAYS AS (n * 3) STORED,
      dated date,
      CONSTRAINT "the Key" PRIMARY KEY (id),
      CONSTRAINT small CHECK ("V" < 100000));
    ALTER TABLE {s}.t RENAME CONSTRAINT t_plain_not_null TO "must be";
    ALTER TABLE {s}.t DROP COLUMN gone;
    CREATE INDEX by_n ON {s}.t (n);
    GRANT MAINTAIN ON {s}.t TO reader;
    INSERT INTO {s}.t (id, n, plain) SELECT g, g % 50, g FROM generate_series(1, 1500) g;"#;

#[tokio::test]
async fn named_not_null_and_virtual_columns_are_carried_over() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    shop.exec("CREATE ROLE reader").await;
    twins(&shop, CARRIED).await;
    same(&shop, "before").await;
    shop.run("ours.t", &["--rebuild"]).await.expect_code(0);
    same(&shop, "rebuilt").await;
    let names = "SELECT array_agg(conname::text ORDER BY conname) FROM pg_constraint \
                 WHERE conrelid = 'ours.t'::regclass AND contype = 'n'";
    let expected = ["always seen", "has_n", "must be", "the id's"];
    assert_eq!(shop.value::<Vec<String>>(names).await, expected);
    let computed = "SELECT count(*) FROM ours.t WHERE \"V\" = n * 2 AND seen = 'n is ' || n";
    assert_eq!(shop.value::<i64>(computed).await, 1500);
}

/// A publication that leaves generated columns out forbids to update a table whose replica identity
/// is the whole row.
#[tokio::test]
async fn the_applications_updates_are_not_forbidden_by_our_publication() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    for kind in ["VIRTUAL", "STORED"] {
        let t = format!("t_{}", kind.to_lowercase());
        shop.exec(&format!(
            "CREATE TABLE {t} (id int PRIMARY KEY, n int, \"G\" int GENERATED ALWAYS AS (n * 2) {kind}); \
             INSERT INTO {t} SELECT g, g FROM generate_series(1, 1000) g; ALTER TABLE {t} REPLICA IDENTITY FULL"
        ))
        .await;
        let output = shop.run(&t, &["--rebuild"]).await.expect_code(3);
        let told = "REPLICA IDENTITY FULL and the generated columns \"G\"";
        assert!(output.stderr.contains(told), "{output}");
        let mend = format!("ALTER TABLE \"public\".\"{t}\" REPLICA IDENTITY DEFAULT");
        assert!(output.stderr.contains(&mend), "{output}");
        shop.exec(&mend).await;

        let held = shop.held("verify", &t, &["--rebuild"]).await;
        shop.exec(&format!("UPDATE {t} SET n = 49 WHERE id < 10; DELETE FROM {t} WHERE id = 20"))
            .await;
        let output = held.finish().await.expect_code(0);
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
        assert_eq!(shop.rows(&t).await, shop.rows(&format!("{t}_old")).await);
    }
}

/// The clauses of one ALTER TABLE each.
const ALTERS: [&[&str]; 8] = [
    &["ADD COLUMN later int GENERATED ALWAYS AS (n + plain)"],
    &["DROP CONSTRAINT small", "ALTER COLUMN \"V\" SET EXPRESSION AS (n * 4)"],
    &["ADD CONSTRAINT dated_now NOT NULL dated, ALTER dated SET DEFAULT '2024-01-01'"],
    &["RENAME CONSTRAINT has_n TO \"n, always\"", "RENAME CONSTRAINT \"the id's\" TO ids"],
    &["ALTER plain DROP NOT NULL", "ALTER seen DROP NOT NULL"],
    &["DROP COLUMN \"V\"", "RENAME seen TO \"V\""],
    &["ALTER id TYPE bigint"],
    &["ALTER plain TYPE text USING 'was ' || \"V\" || seen"],
];

#[tokio::test]
async fn changes_of_them_are_what_plain_alter_makes() {
    if !harness::since(18) {
        return;
    }
    let mut shop = shop().await;
    shop.exec("CREATE ROLE reader").await;
    for (n, clauses) in ALTERS.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        twins(&shop, CARRIED).await;
        shop.exec("UPDATE ours.t SET dated = '2024-02-03'; UPDATE twin.t SET dated = '2024-02-03'")
            .await;
        alter_alike(&shop, clauses).await;
    }
}

/// A key of ranges of time orders its rows in no way that a copy could follow.
#[tokio::test]
async fn a_temporal_key_is_refused_by_name() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int4range, during daterange, CONSTRAINT \"the Key\" PRIMARY KEY (id, during WITHOUT OVERLAPS))",
    )
    .await;
    let output = shop.run("t", &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("WITHOUT OVERLAPS"), "{output}");
    assert!(output.stderr.contains("the Key"), "{output}");
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0]);
}

/// What the change adds is as carried over as what was there.
const ADDED: [&[&str]; 5] = [
    &["ADD CONSTRAINT hope CHECK (n > 100) NOT ENFORCED"],
    &["ADD CONSTRAINT unproven NOT NULL n NOT VALID"],
    &["ADD CONSTRAINT here_only NOT NULL id NO INHERIT"],
    &["ADD CONSTRAINT once UNIQUE (r, during WITHOUT OVERLAPS)"],
    &["ADD COLUMN later int GENERATED ALWAYS AS (n * 2) VIRTUAL"],
];

#[tokio::test]
async fn a_change_that_adds_such_a_thing_is_what_plain_alter_makes() {
    if !harness::since(18) {
        return;
    }
    let mut shop = shop().await;
    for (n, clauses) in ADDED.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let made = "CREATE SCHEMA {s}; \
            CREATE TABLE {s}.t (k int PRIMARY KEY, id int, n int, r int4range, during daterange); \
            INSERT INTO {s}.t SELECT g, g, nullif(g % 50, 0), int4range(g, g + 1), '[2024-01-01,2024-02-01)' FROM generate_series(1, 500) g";
        twins(&shop, made).await;
        alter_alike(&shop, clauses).await;
    }
}

/// What would be lost must not slip in after preflight either.
#[tokio::test]
async fn a_constraint_altered_in_mid_run_is_noticed() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    shop.exec("CREATE TABLE t (id int PRIMARY KEY, n int CONSTRAINT has_n NOT NULL)").await;
    let held = shop.held("cutover", "t", &["--rebuild"]).await;
    shop.exec("ALTER TABLE t ALTER CONSTRAINT has_n NO INHERIT").await;
    let output = held.finish().await.expect_code(6);
    assert!(output.stderr.contains("constraint, has_n"), "{output}");
}
