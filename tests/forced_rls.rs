//! Tables whose row security is forced on their owner: all rows arrive, also those that no policy
//! shows, and what runs over them never has the tool's rights.

use crate::definition::assert_same;
use crate::harness::{self, Background, Failpoint};
use crate::scene::{Held, SOON, Shop, exec, shop};

/// Policies that the owner may not even evaluate, code that tells as whom it runs, and default
/// privileges that would show the rows to everybody.
const TABLE: &str = r#"
    CREATE ROLE "The Owner"; CREATE ROLE app;
    CREATE ROLE tool LOGIN REPLICATION IN ROLE "The Owner", pg_read_all_stats;
    GRANT CREATE ON DATABASE shop TO tool; GRANT CREATE ON SCHEMA public TO "The Owner";
    ALTER DEFAULT PRIVILEGES FOR ROLE tool GRANT SELECT ON TABLES TO PUBLIC, app;
    CREATE FUNCTION mine(text) RETURNS bool STABLE LANGUAGE sql AS $$ SELECT $1 = current_setting('my.tenant') $$;
    REVOKE ALL ON FUNCTION mine FROM PUBLIC; GRANT EXECUTE ON FUNCTION mine TO app;
    SET ROLE "The Owner";
    CREATE FUNCTION seen(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
      IF current_user = session_user AND current_setting('application_name') LIKE 'pgwraith/%' THEN
        RAISE 'it runs as %', current_user; END IF;
      RETURN $1; END $$;
    CREATE TABLE "Orders" (id int PRIMARY KEY, tenant text NOT NULL, n int NOT NULL CHECK (seen(n) > 0),
      made int GENERATED ALWAYS AS (seen(n) + 1) STORED);
    CREATE INDEX by_n ON "Orders" (seen(n));
    INSERT INTO "Orders" SELECT g, 't' || g % 5, g FROM generate_series(1, 5000) g;
    ALTER TABLE "Orders" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON "Orders" USING (mine(tenant));
    GRANT SELECT, INSERT, UPDATE, DELETE ON "Orders" TO app;
    RESET ROLE;
    CREATE TABLE twin AS SELECT id, tenant, n FROM "Orders"; GRANT ALL ON twin TO app;"#;

const NAME: &str = "\"Orders\"";

/// Every value goes through a function, and a constant one already when the plan is made.
const CHANGE: [&str; 4] = ["--map", "n = seen(n) + seen(0)", "--chunk-rows", "500"];

fn arguments(shop: &Shop, role: &str) -> Vec<String> {
    let dsn = shop.dsn.replacen("postgres@", &format!("{role}@"), 1);
    let given = shop.arguments(NAME, &CHANGE).into_iter();
    given.map(|a| if a == shop.dsn { dsn.clone() } else { a }).collect()
}

/// Our views over the table.
async fn views(shop: &Shop) -> Vec<String> {
    let sql = "SELECT DISTINCT w.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid \
               WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid IN \
                 (SELECT oid FROM pg_class WHERE relname LIKE 'Orders%')";
    shop.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The same in both tables, as the role that has the session.
async fn write(session: &tokio_postgres::Client, what: &str) {
    let both = ["\"Orders\"", "twin"].map(|table| what.replace("{t}", table)).join("; ");
    exec(session, &format!("BEGIN; {both}; COMMIT")).await;
}

/// Writes of a tenant, whom the policy shows its own rows, until it is told to stop.
async fn tenant(shop: &Shop) -> (tokio::task::JoinHandle<u32>, tokio::sync::oneshot::Sender<()>) {
    let session = shop.session().await;
    exec(&session, "SET ROLE app; SET my.tenant = 't1'").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let writes = async move {
        let mut n = 0;
        while stopped.try_recv().is_err() {
            n += 1;
            let id = 1 + n % 100 * 50;
            write(&session, &format!(
                "UPDATE {{t}} SET n = n + 1 WHERE id = {id}; DELETE FROM {{t}} WHERE id = {id} + 5; \
                 INSERT INTO {{t}} (id, tenant, n) VALUES ({}, 't1', 7)", -(n as i32)
            ))
            .await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        n
    };
    (tokio::spawn(writes), stop)
}

#[tokio::test]
async fn all_rows_arrive_and_row_security_stays_forced() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("ALTER ROLE tool BYPASSRLS").await;
    let before = shop.definition(NAME).await;
    let (writes, stop) = tenant(&shop).await;
    let held = Held::start(&shop, "verify", arguments(&shop, "tool")).await;
    // Rows of whom no policy knows.
    write(&shop.client, "UPDATE {t} SET tenant = 'nobody' WHERE id % 50 = 2; \
                         DELETE FROM {t} WHERE id % 50 = 3; INSERT INTO {t} (id, tenant, n) VALUES (9000, 'nobody', 1)")
        .await;
    let view = views(&shop).await.pop().unwrap();
    only_the_owner_reads(&shop, &view).await;
    plans_use_the_key(&shop, &view).await;
    held.finish().await.expect_code(0);
    stop.send(()).unwrap();
    assert!(writes.await.unwrap() > 10);

    assert_eq!(shop.rows("(SELECT id, tenant, n FROM \"Orders\")").await, shop.rows("twin").await);
    let wrong: i64 = shop.value("SELECT count(*) FROM \"Orders\" WHERE made <> n + 1").await;
    assert_eq!(wrong, 0);
    assert_same(&shop.definition(NAME).await, &before, "rebuilt");
    assert_eq!((views(&shop).await, shop.held_back().await), (vec![], vec![]));
    shop.exec("SET my.tenant = 't2'; SET ROLE app").await;
    let strange: i64 = shop.value("SELECT count(*) FROM \"Orders\" WHERE tenant <> 't2'").await;
    assert_eq!(strange, 0);
    shop.exec("RESET ROLE; DROP TABLE \"Orders_old\"").await;
}

/// Default privileges of the tool's role do not show the rows to others.
async fn only_the_owner_reads(shop: &Shop, view: &str) {
    let may = format!(
        "SELECT string_agg(r, ' ' ORDER BY r) FROM unnest(ARRAY['app', 'tool', 'The Owner', 'pg_monitor']) r \
         WHERE has_table_privilege(r, '{view}', 'SELECT')"
    );
    // The tool by its membership.
    assert_eq!(shop.value::<String>(&may).await, "The Owner tool");
}

/// The view costs no plan: what is asked of it is asked of the table.
async fn plans_use_the_key(shop: &Shop, view: &str) {
    let session = shop.session().await;
    exec(&session, "SET ROLE \"The Owner\"; SET row_security = off; SET enable_sort = off; SET enable_bitmapscan = off").await;
    for (asked, condition) in [
        (
            format!(
                "SELECT s.id FROM ONLY {view} AS s WHERE s.id > 10 ORDER BY s.id OFFSET 9 LIMIT 1"
            ),
            "Index Cond: (id > 10)",
        ),
        (
            format!("SELECT s.* FROM ONLY {view} AS s WHERE s.id > 10 AND s.id <= 90"),
            "Index Cond: ((id > 10) AND (id <= 90))",
        ),
        (
            format!(
                "SELECT 1 FROM unnest(ARRAY[1, 2]) AS k(id) WHERE NOT EXISTS (SELECT 1 FROM ONLY {view} AS c WHERE c.id = k.id)"
            ),
            "Index Cond: (id = k.id)",
        ),
    ] {
        exec(
            &session,
            "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off",
        )
        .await;
        let plan = session.query(&format!("EXPLAIN {asked}"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
        assert!(plan.iter().any(|line| line.contains(condition)), "{plan:#?}");
    }
}

#[tokio::test]
async fn a_role_that_row_security_binds_is_refused() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let output = harness::run(arguments(&shop, "tool")).await.expect_code(3);
    let mend = "row security of \"public\".\"Orders\" is forced on its owner, and \"tool\" does not bypass it. \
                ALTER ROLE \"tool\" BYPASSRLS; or ALTER TABLE \"public\".\"Orders\" NO FORCE ROW LEVEL SECURITY";
    assert!(output.stderr.contains(mend), "{output}");
    // A schema for the state that is somebody else's.
    shop.exec("ALTER ROLE tool BYPASSRLS; CREATE SCHEMA pgwraith").await;
    let output = harness::run(arguments(&shop, "tool")).await.expect_code(3);
    assert!(output.stderr.contains("GRANT CREATE ON SCHEMA pgwraith TO \"tool\""), "{output}");
    // FORCE alone applies to nobody.
    shop.exec("DROP SCHEMA pgwraith; ALTER ROLE tool NOBYPASSRLS; ALTER TABLE \"Orders\" DISABLE ROW LEVEL SECURITY").await;
    harness::run(arguments(&shop, "tool")).await.expect_code(0);
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_fails_or_dies() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    another_migration(&shop).await;
    let before = shop.rows(NAME).await;
    // A row that no policy shows does not fit.
    let output = shop.run(NAME, &["--map", "n = n * 1000000"]).await.expect_code(4);
    assert!(output.stderr.contains("key id = "), "{output}");
    assert_eq!(views(&shop).await.len(), 1, "the run may go on once the row is another");
    nothing_after_abort(&shop).await;

    let held = Held::start(&shop, "cutover", arguments(&shop, "postgres")).await;
    held.run.signal(libc::SIGKILL);
    held.release().await;
    held.run.finish(SOON).await;
    assert_eq!(views(&shop).await.len(), 1, "a crash cleans nothing");
    let output = harness::run(arguments(&shop, "postgres")).await.expect_code(3);
    assert!(
        output.stderr.contains("pgwraith abort")
            && output.stderr.contains("pgwraith resume")
            && !output.stderr.contains("DROP VIEW"),
        "{output}"
    );
    nothing_after_abort(&shop).await;
    assert_eq!(shop.rows(NAME).await, before);

    // Behind the swap, where there is nothing left to abort.
    stop_at(&shop, "event", "NEW.what = 'finished'").await;
    let stop = Failpoint::closed(shop.session().await, STOP).await;
    let run = Background::start(arguments(&shop, "postgres"));
    stop.wait_for_somebody().await;
    run.signal(libc::SIGKILL);
    assert_eq!(views(&shop).await, [""; 0], "the view goes with the swap");
    stop.open().await;
    shop.exec("DROP TABLE \"Orders_old\", \"Orders\"").await;
}

/// The state of a migration of something else, which keeps the schema from being dropped.
async fn another_migration(shop: &Shop) {
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(
        "INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, retired_name, change, \
         tool_version) VALUES ('s', 't', 0, 't_v2', 't_old', '{}', '0')",
    )
    .await;
}

async fn nothing_after_abort(shop: &Shop) {
    harness::run(["abort", NAME, "-d", &shop.dsn]).await.expect_code(0);
    let gone = async || harness::leftovers(&shop.client).await == ["schema pgwraith"];
    harness::wait_until("nothing is left", SOON, gone).await;
    assert_eq!(views(shop).await, [""; 0]);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM pgwraith.migration").await, 1);
}

/// The view waits for the table's lock like everything else; an abort meanwhile ends it for good.
#[tokio::test]
async fn an_abort_while_the_view_waits_leaves_none() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    another_migration(&shop).await;
    let theirs = shop.session().await;
    stop_at(&shop, "flow", "true").await;
    let stop = Failpoint::closed(shop.session().await, STOP).await;
    let run = Background::start(arguments(&shop, "postgres"));
    stop.wait_for_somebody().await;
    exec(&theirs, "BEGIN; LOCK TABLE \"Orders\"").await;
    stop.open().await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/rows' \
                 AND wait_event_type = 'Lock')";
    harness::wait_for_sql(&shop.client, "the view waits", waits).await;
    harness::run(["abort", NAME, "-d", &shop.dsn]).await.expect_code(0);
    exec(&theirs, "COMMIT").await;
    let output = run.finish(SOON).await;
    assert!(matches!(output.code, Some(1 | 6)), "{output}");
    assert_eq!((views(&shop).await, shop.held_back().await), (vec![], vec![]));
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM pgwraith.migration").await, 1);
}

const STOP: i64 = 5;

/// Whoever inserts such a row into a table of the state waits for `STOP`.
async fn stop_at(shop: &Shop, table: &str, condition: &str) {
    shop.exec(&format!(
        "CREATE FUNCTION public.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM pg_catalog.pg_advisory_xact_lock_shared({STOP}); RETURN NEW; END $$; \
         CREATE TRIGGER stop AFTER INSERT ON pgwraith.{table} FOR EACH ROW WHEN ({condition}) \
           EXECUTE FUNCTION public.stop()"
    ))
    .await;
}

/// A foreign key is tried on a clone whose row security is forced, and which has no rows.
#[tokio::test]
async fn a_column_that_refers_is_retyped_under_forced_row_security() {
    let shop = shop().await;
    shop.exec(
        "CREATE ROLE own; GRANT ALL ON SCHEMA public TO own; CREATE TABLE t (id int PRIMARY KEY, par int REFERENCES t); \
         INSERT INTO t VALUES (1, 1); ALTER TABLE t OWNER TO own; ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    )
    .await;
    shop.run("t", &["--alter", "ALTER COLUMN par TYPE bigint"]).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT par FROM t").await, 1);
}
