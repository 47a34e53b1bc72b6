//! Settings of the database and of the role: those that decide what values mean are followed, those
//! that would get in our way do not reach our sessions.

use crate::scene::shop;

#[tokio::test]
async fn a_conversion_follows_the_databases_time_zone_as_a_plain_alter_does() {
    let mut shop = shop().await;
    shop.exec(
        "ALTER DATABASE shop SET timezone = 'Europe/Berlin'; \
         ALTER DATABASE shop SET datestyle = 'SQL, DMY'; \
         ALTER DATABASE shop SET intervalstyle = 'sql_standard'",
    )
    .await;
    shop.client = shop.session().await;
    shop.exec(
        "CREATE TABLE t (id timestamptz PRIMARY KEY, at timestamp, d text, i text); \
         INSERT INTO t SELECT timestamptz '2024-10-27 00:00:00+00' + g * interval '10 min', \
           timestamp '2024-10-27 00:00:00' + g * interval '10 min', (DATE '2024-03-02' + g)::text, \
           (g * interval '1 day')::text FROM generate_series(0, 600) g; \
         CREATE TABLE twin (LIKE t INCLUDING ALL); INSERT INTO twin SELECT * FROM t",
    )
    .await;
    let change = "ALTER COLUMN at TYPE timestamptz, ALTER COLUMN d TYPE date USING d::date, \
                  ALTER COLUMN i TYPE interval USING i::interval, \
                  ADD COLUMN since timestamptz DEFAULT '01/02/2024 03:00'";
    shop.exec(&format!("ALTER TABLE twin {change}")).await;
    shop.run("t", &["--alter", change, "--chunk-rows", "100"]).await.expect_code(0);
    assert_eq!(shop.rows("t").await, shop.rows("twin").await);
}

#[tokio::test]
async fn defaults_of_the_role_do_not_reach_our_sessions() {
    let shop = shop().await;
    shop.exec(
        "CREATE ROLE owner1; GRANT CREATE ON SCHEMA public TO owner1; \
         CREATE ROLE dba LOGIN REPLICATION IN ROLE owner1, pg_read_all_stats; \
         GRANT CREATE ON DATABASE shop TO dba; \
         ALTER ROLE dba SET synchronous_commit = off; ALTER ROLE dba SET statement_timeout = '1s'; \
         ALTER ROLE dba SET lock_timeout = '10ms'; ALTER ROLE dba SET search_path = 'nowhere'; \
         ALTER ROLE dba SET idle_in_transaction_session_timeout = '100ms'; \
         ALTER ROLE dba SET default_transaction_isolation = 'serializable'; \
         ALTER ROLE dba SET default_transaction_read_only = on; \
         ALTER ROLE dba SET enable_indexscan = off; ALTER ROLE dba SET bytea_output = 'escape'; \
         SET ROLE owner1; CREATE TABLE t (id int PRIMARY KEY, v text); \
         INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 2000) g; RESET ROLE; \
         ALTER DEFAULT PRIVILEGES FOR ROLE owner1 GRANT SELECT ON TABLES TO PUBLIC",
    )
    .await;
    let dsn = shop.dsn.replace("postgres@", "dba@");
    let mut arguments = shop.arguments("public.t", &["--rebuild", "--chunk-rows", "100"]);
    arguments[3] = dsn;
    let held = crate::scene::Held::start(&shop, "verify", arguments).await;
    // Held for longer than every timeout above, with the sessions open.
    let over = "SELECT now() - min(backend_start) > interval '1500 ms' FROM pg_stat_activity \
                WHERE application_name LIKE 'pgwraith/%/keeper'";
    crate::harness::wait_for_sql(&shop.client, "the timeouts are over", over).await;
    held.finish().await.expect_code(0);
    let owner: String =
        shop.value("SELECT relowner::regrole::text FROM pg_class WHERE oid = 't'::regclass").await;
    assert_eq!(owner, "owner1");
    let leaked: i64 = shop
        .value(
            "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 't'::regclass \
             AND a.grantee = 0",
        )
        .await;
    assert_eq!(leaked, 0, "a default privilege came with the new table");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t").await, 2000);
}
