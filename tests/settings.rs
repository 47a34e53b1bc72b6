//! What a role, a database or default privileges set does not reach our sessions and the new table.

use crate::definition::assert_same;
use crate::scene::{Shop, shop};

const TIMES: &str = "
    CREATE SCHEMA {s};
    CREATE TABLE {s}.t (id int PRIMARY KEY, ts timestamp, txt text, span interval, d date, f float8, back timestamptz);
    INSERT INTO {s}.t SELECT g, '2024-03-30 22:00'::timestamp + g * interval '7 min', '03/04/2024 01:00', g * interval '90 min',
      '2024-10-27', g / 3.0, '2024-10-26 22:00+00'::timestamptz + g * interval '7 min' FROM generate_series(1, 500) g;";

async fn twins(shop: &Shop) {
    for schema in ["ours", "twin"] {
        shop.exec(&TIMES.replace("{s}", schema)).await;
    }
}

async fn equal_twins(shop: &Shop) {
    let [ours, twin] = [shop.rows("ours.t").await, shop.rows("twin.t").await];
    assert_eq!(ours.len(), 500);
    assert_eq!(ours, twin);
}

/// Both the hour that is not and the hour that is twice are among the rows.
#[tokio::test]
async fn conversions_follow_the_databases_time_zone_and_date_style() {
    let mut shop = shop().await;
    for (n, (zone, style)) in
        [("Europe/Berlin", "ISO, MDY"), ("America/New_York", "SQL, DMY"), ("UTC", "German, DMY")]
            .into_iter()
            .enumerate()
    {
        shop.move_to(&format!("zone{n}")).await;
        shop.exec(&format!(
            "ALTER DATABASE zone{n} SET timezone = '{zone}'; ALTER DATABASE zone{n} SET datestyle = '{style}'; \
             ALTER DATABASE zone{n} SET intervalstyle = 'sql_standard'"
        ))
        .await;
        shop.client = shop.session().await;
        twins(&shop).await;
        let clauses = "ALTER ts TYPE timestamptz, ALTER back TYPE timestamp, ALTER d TYPE timestamptz, \
                       ALTER txt TYPE timestamptz USING txt::timestamptz, ALTER span TYPE text, ALTER f TYPE text";
        shop.exec(&format!("ALTER TABLE twin.t {clauses}")).await;
        shop.run("ours.t", &["--alter", clauses]).await.expect_code(0);
        equal_twins(&shop).await;
    }
}

#[tokio::test]
async fn role_defaults_do_not_reach_us() {
    let shop = shop().await;
    shop.exec("CREATE ROLE app SUPERUSER LOGIN").await;
    twins(&shop).await;
    for setting in [
        "synchronous_commit = off",
        "statement_timeout = '1s'",
        "lock_timeout = '10ms'",
        "idle_in_transaction_session_timeout = '100ms'",
        "idle_session_timeout = '300ms'",
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        "search_path = 'nowhere'",
        "row_security = on",
        "default_tablespace = 'nowhere'",
        "default_table_access_method = 'nowhere'",
        "standard_conforming_strings = off",
        "bytea_output = escape",
        "client_encoding = 'LATIN1'",
        "check_function_bodies = off",
        "quote_all_identifiers = on",
    ] {
        // A name that is not there is accepted with a notice.
        shop.exec(&format!("ALTER ROLE app SET {setting}")).await;
    }
    let role: String = shop.dsn.replacen("postgres@", "app@", 1);
    assert_ne!(role, shop.dsn);
    let clauses =
        "ALTER txt TYPE varchar(40) USING E'x\\\\y' || txt || 'é', ADD c text DEFAULT 'a\\b'";
    shop.exec(&format!("ALTER TABLE twin.t {clauses}")).await;

    // Slow enough for every timeout: each chunk, each build and the wait for the slot take longer.
    let writer = shop.session().await;
    crate::scene::exec(&writer, "CREATE TABLE w (n int); BEGIN; INSERT INTO w VALUES (1)").await;
    let arguments = ["run", "ours.t", "-d", &role, "--json", "--alter", clauses];
    let mut run = crate::harness::Background::start(arguments);
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/stream' \
                 AND wait_event = 'transactionid' AND clock_timestamp() - query_start > interval '1500 ms')";
    crate::scene::wait_for(
        &shop.client,
        &mut run,
        "the slot waited longer than any timeout",
        waits,
    )
    .await;
    let durable = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%' AND usename <> 'app'";
    assert_eq!(shop.value::<i64>(durable).await, 0);
    crate::scene::exec(&writer, "COMMIT").await;
    run.finish(crate::scene::SOON).await.expect_code(0);
    equal_twins(&shop).await;
    let twin = shop.definition("twin.t").await.into_iter().map(|s| s.replace("twin", "ours"));
    let mut twin: Vec<String> = twin.collect();
    twin.sort();
    assert_same(&shop.definition("ours.t").await, &twin, "settings of the role");
}

#[tokio::test]
async fn default_privileges_do_not_leak() {
    let shop = shop().await;
    shop.exec(
        "CREATE ROLE owner; CREATE ROLE stranger; CREATE ROLE known; GRANT CREATE ON SCHEMA public TO owner; SET ROLE owner; \
         CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
         CREATE TABLE granted (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY); \
         GRANT SELECT ON granted TO known; \
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO stranger; \
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; \
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO stranger; \
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT ON TABLES TO known; RESET ROLE",
    )
    .await;
    for table in ["plain", "granted"] {
        let before = shop.definition(table).await;
        let held = shop.held("copy", table, &["--rebuild"]).await;
        let early = format!(
            "SELECT has_table_privilege('stranger', '{table}_v2', 'select') \
             OR has_sequence_privilege('stranger', '{table}_v2_id_seq', 'usage')"
        );
        assert!(
            !shop.value::<bool>(&early).await,
            "the shadow of {table} can be read by strangers"
        );
        held.finish().await.expect_code(0);
        assert_same(&shop.definition(table).await, &before, table);
    }
}
