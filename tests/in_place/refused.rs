//! What is not made in place is refused by name, and nothing is touched.

use crate::harness::{self, ANY_WAY};

use super::{run, table};

#[tokio::test]
async fn what_needs_a_copy_is_named() {
    let shop = table().await;
    let flags: [&[&str]; 6] = [
        &["--map", "a = a + 1"],
        &["--where", "a > 5", "--yes"],
        &["--partition-by", "HASH (id)", "--partitions", "4"],
        &["--rebuild"],
        &["--column-order", "b, id"],
        &["--force-copy"],
    ];
    for flag in flags {
        let output = run(&shop, "ADD CHECK (a > 0)", flag).await.expect_code(2);
        assert!(
            output.stderr.contains(flag[0]) && output.stderr.contains("--in-place"),
            "{output}"
        );
    }
    let by_file =
        ["run", "ours.t", "-d", &shop.dsn, "--in-place", "--shadow-ddl", "/dev/null", ANY_WAY];
    let output = harness::run(by_file).await.expect_code(2);
    assert!(output.stderr.contains("--shadow-ddl is of a copy"), "{output}");
    let postponed = run(&shop, "ADD CHECK (a > 0)", &["--postpone-cutover"]).await.expect_code(2);
    assert!(postponed.stderr.contains("--cutover-window"), "{postponed}");
    for (alter, why) in [
        ("ALTER COLUMN a TYPE bigint", "writes the whole table"),
        ("ADD COLUMN n int NOT NULL", "has no value for the rows"),
        ("ADD COLUMN n int GENERATED ALWAYS AS IDENTITY", "writes the whole table"),
        ("DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)", "what it drops would be gone before"),
        ("ADD CONSTRAINT c CHECK (a > 0), DROP CONSTRAINT IF EXISTS c", "come out another"),
    ] {
        let output = run(&shop, alter, &[]).await.expect_code(3);
        assert!(output.stderr.contains(why), "{alter}: {output}");
        assert!(output.stderr.contains("in-place"), "the way out: {output}");
        assert!(output.stderr.contains("Nothing was touched"), "{output}");
    }
    run(&shop, "ADD COLUMN", &[]).await.expect_code(2);
    shop.exec("CREATE TABLE ours.t_a_key (n int)").await;
    let output = run(&shop, "ADD UNIQUE (a)", &[]).await.expect_code(3);
    assert!(
        output.stderr.contains("t_a_key") && output.stderr.contains("ADD CONSTRAINT name"),
        "{output}"
    );
    shop.exec(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := 'touched'; RETURN NEW; END $$; \
         CREATE TRIGGER touches BEFORE UPDATE ON ours.t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    let output =
        run(&shop, "ADD COLUMN n uuid DEFAULT gen_random_uuid()", &[]).await.expect_code(3);
    assert!(output.stderr.contains("trigger touches"), "{output}");
    assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await);
}

/// What is instant is made so, and the server needs no logical decoding for any of it.
#[tokio::test]
async fn only_what_is_needed_is_asked_for() {
    let shop = crate::scene::shop_with(&[("wal_level", "replica")]).await;
    crate::twins::twins(&shop, super::ROWS).await;
    let output = run(&shop, "ADD COLUMN n int", &[]).await.expect_code(0);
    assert_eq!(output.json()["way"], "instant", "{output}");
    assert!(shop.value::<bool>("SELECT to_regnamespace('pgwraith') IS NULL").await);
    shop.exec(
        "ALTER TABLE ours.t DROP CONSTRAINT t_pkey; CREATE ROLE app; GRANT USAGE, CREATE ON SCHEMA ours TO app; \
         ALTER TABLE ours.t OWNER TO app; CREATE ROLE dba LOGIN; GRANT app TO dba; GRANT pg_read_all_stats TO dba; \
         GRANT CREATE ON DATABASE shop TO dba",
    )
    .await;
    let alter = "ADD PRIMARY KEY (id), ADD CHECK (a > 0)";
    let mut all = super::arguments(&shop, alter, &[]);
    all[3] = shop.dsn.replacen("postgres@", "dba@", 1);
    let output = harness::run(&all).await.expect_code(0);
    assert_eq!(output.json()["way"], "careful", "{output}");
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 't_pkey' AND relnamespace = 'ours'::regnamespace";
    assert_eq!(shop.value::<String>(owner).await, "app");

    // The same once more: for schedulers.
    shop.exec("ALTER TABLE ours.t DROP CONSTRAINT t_a_check; UPDATE ours.t SET a = 0 WHERE id = 7")
        .await;
    let again = ["--or-resume"];
    run(&shop, "ADD CHECK (a > 0)", &again).await.expect_code(4);
    let other = run(&shop, "ADD CHECK (a > 1)", &again).await.expect_code(3);
    assert!(other.stderr.contains("--in-place"), "{other}");
    let by_copy =
        shop.arguments("ours.t", &["--alter", "ADD CHECK (a > 0)", "--or-resume", ANY_WAY]);
    harness::run(by_copy).await.expect_code(3);
    shop.exec("UPDATE ours.t SET a = 1 WHERE id = 7").await;
    run(&shop, "ADD CHECK (a > 0)", &again).await.expect_code(0);
}
