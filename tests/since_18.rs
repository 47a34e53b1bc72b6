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

/// What is checked late, or not at all, or against ranges of time.
const LOOSE: &str = r#"
    CREATE SCHEMA {s};
    CREATE TABLE {s}.parent (id int PRIMARY KEY);
    CREATE TABLE {s}.t (
      id int PRIMARY KEY, during daterange, u int4range NOT NULL,
      n int CONSTRAINT here_only NOT NULL NO INHERIT,
      m int,
      q int CONSTRAINT hope CHECK (q > 0) NOT ENFORCED,
      p int CONSTRAINT loose REFERENCES {s}.parent NOT ENFORCED,
      k int CONSTRAINT told NOT NULL,
      CONSTRAINT once UNIQUE (u, during WITHOUT OVERLAPS));
    INSERT INTO {s}.t SELECT g, daterange('2024-01-01', '2024-01-02'), int4range(g, g + 1), 1,
      nullif(g % 2, 0), -g, g, 1 FROM generate_series(1, 300) g;
    ALTER TABLE {s}.t ADD CONSTRAINT unproven NOT NULL m NOT VALID;
    COMMENT ON CONSTRAINT told ON {s}.t IS 'why'; COMMENT ON CONSTRAINT unproven ON {s}.t IS 'later';
    COMMENT ON CONSTRAINT loose ON {s}.t IS 'perhaps';
    CREATE TABLE {s}.child (u int4range, at daterange,
      CONSTRAINT within FOREIGN KEY (u, PERIOD at) REFERENCES {s}.t (u, PERIOD during));"#;

#[tokio::test]
async fn constraints_that_are_loose_or_about_time_are_carried_over() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    twins(&shop, LOOSE).await;
    shop.run("ours.t", &["--rebuild"]).await.expect_code(0);
    same(&shop, "rebuilt").await;
    let of = |schema: &str| {
        format!(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{schema}.child'::regclass"
        )
    };
    let ours: String = shop.value(&of("ours")).await;
    assert_eq!(ours.replace("ours", "twin"), shop.value::<String>(&of("twin")).await);
    shop.exec("DROP TABLE ours.t_old").await;
}

#[tokio::test]
async fn a_key_of_time_is_refused_with_what_to_do() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int4range, during daterange, CONSTRAINT \"the Key\" PRIMARY KEY (id, during WITHOUT OVERLAPS))",
    )
    .await;
    let output = shop.run("t", &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("its key \"the Key\" is WITHOUT OVERLAPS"), "{output}");
    assert!(output.stderr.contains("REPLICA IDENTITY USING INDEX"), "{output}");
}

const LATE: &[&[&str]] = &[
    &["ADD CONSTRAINT hope CHECK (n > 0) NOT ENFORCED"],
    &["ADD x int", "ADD CONSTRAINT unproven NOT NULL x NOT VALID"],
    &["ALTER plain DROP NOT NULL", "ADD CONSTRAINT here_only NOT NULL plain NO INHERIT"],
    &["ADD EXCLUDE (plain WITH =)"],
    &["ADD COLUMN later int GENERATED ALWAYS AS (n * 2) VIRTUAL"],
    &[
        "ADD r int4range, ADD during daterange",
        "ADD CONSTRAINT once UNIQUE (r, during WITHOUT OVERLAPS)",
    ],
];

#[tokio::test]
async fn a_change_may_add_such_constraints() {
    if !harness::since(18) {
        return;
    }
    let mut shop = shop().await;
    shop.exec("CREATE ROLE reader").await;
    for (n, clauses) in LATE.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec("CREATE EXTENSION btree_gist").await;
        twins(&shop, CARRIED).await;
        alter_alike(&shop, clauses).await;
        // What was added before is carried by the next run.
        shop.exec("DROP TABLE ours.t_old").await;
        shop.run("ours.t", &["--rebuild"]).await.expect_code(0);
        same(&shop, &format!("{clauses:?}, rebuilt")).await;
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
