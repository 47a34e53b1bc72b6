//! What a server must offer.

use pgwraith::preflight::{EventTriggers, Severity};

use super::{PLAIN, everything, findings, findings_with, of, refusal, refusing, the};
use crate::harness;

#[tokio::test]
async fn a_plain_table_passes_and_stays_as_it_is() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "weird \"näme").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(PLAIN).await.unwrap();

    let before = everything(&client).await;
    for dsn in [&dsn, &cluster.socket_dsn("weird \"näme")] {
        let found = findings(dsn, "orders").await;
        assert_eq!(refusing(&found), [].into(), "{found:#?}");
        let warned: Vec<&str> = of(&found, Severity::Warn).iter().map(|f| f.check).collect();
        assert_eq!(warned, ["slot_limit"], "{found:#?}");
        let limit = the(&found, "slot_limit", Severity::Warn, "-1");
        assert!(limit.mend.contains("SET max_slot_wal_keep_size = '10GB'"), "{limit}");
        the(&found, "privileges", Severity::Note, "superuser");
        let disk = the(&found, "disk", Severity::Note, "kB");
        assert!(disk.mend.contains("unknown"), "{disk}");
    }
    assert_eq!(everything(&client).await, before);
}

#[tokio::test]
async fn a_server_that_cannot_is_told_all_that_it_lacks_at_once() {
    let mut cluster = harness::cluster_with(&[
        ("wal_level", "replica"),
        ("max_replication_slots", "1"),
        ("max_wal_senders", "0"),
        ("max_connections", "9"),
        // Serializable would keep a standby from answering at all.
        ("default_transaction_isolation", "repeatable read"),
    ])
    .await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             SELECT pg_create_physical_replication_slot('sleeper');",
        )
        .await
        .unwrap();
    let found = findings(&dsn, "t").await;
    let decoding = refusal(&found, "logical_decoding", "wal_level is replica");
    assert!(decoding.mend.contains("ALTER SYSTEM SET wal_level = logical; then restart"));
    let slots = refusal(&found, "replication_slots", "1 of max_replication_slots = 1");
    assert!(slots.mend.contains("sleeper") && slots.mend.contains("max_replication_slots = 2"));
    assert!(
        refusal(&found, "walsenders", "max_wal_senders = 0").mend.contains("max_wal_senders = 1")
    );
    assert!(refusal(&found, "replication_connection", "53300").mend.contains("max_wal_senders"));
    assert!(refusal(&found, "connections", "max_connections").mend.contains("max_connections"));
    the(&found, "isolation", Severity::Warn, "the whole server (repeatable read)");
    assert_eq!(refusing(&found).len(), 5, "{found:#?}");

    drop(client);
    let standby = harness::connect(&dsn).await;
    let data: String = standby.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    drop(standby);
    cluster.stop_fast().await.unwrap();
    std::fs::write(std::path::Path::new(&data).join("standby.signal"), "").unwrap();
    cluster.restart().await.unwrap();
    let found = findings(&dsn, "t").await;
    assert!(refusal(&found, "primary", "standby").mend.contains("target_session_attrs=read-write"));
}

#[tokio::test]
async fn what_else_the_server_does_is_told_beforehand() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text COLLATE \"en-x-icu\" UNIQUE);
             CREATE ROLE strict; CREATE ROLE lax;
             ALTER ROLE strict SET default_transaction_isolation = 'repeatable read';
             ALTER ROLE lax SET default_transaction_isolation = 'read committed';
             ALTER DATABASE d SET default_transaction_isolation = 'serializable';
             UPDATE pg_collation SET collversion = '0.0' WHERE collname = 'en-x-icu';",
        )
        .await
        .unwrap();
    let found = findings(&dsn, "t").await;
    assert_eq!(refusing(&found), [].into(), "{found:#?}");
    let isolation = the(&found, "isolation", Severity::Warn, "role strict (repeatable read)");
    assert!(isolation.what.contains("every role in database d (serializable)"), "{isolation}");
    assert!(!isolation.what.contains("lax"), "{isolation}");
    let collation = the(&found, "collation_versions", Severity::Warn, "version 0.0");
    assert!(collation.mend.contains("ALTER COLLATION pg_catalog.\"en-x-icu\" REFRESH VERSION"));
}

const EVENT_TRIGGERS: &str = "
  CREATE TABLE t (id int PRIMARY KEY);
  CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end';
  CREATE EVENT TRIGGER \"Wächter\" ON ddl_command_end EXECUTE FUNCTION audit();
  CREATE EVENT TRIGGER always ON ddl_command_start WHEN TAG IN ('CREATE AGGREGATE', 'ALTER TABLE') EXECUTE FUNCTION audit();
  ALTER EVENT TRIGGER always ENABLE ALWAYS;
  CREATE EVENT TRIGGER dropped ON sql_drop WHEN TAG IN ('DROP VIEW') EXECUTE FUNCTION audit();
  CREATE EVENT TRIGGER other_tags ON ddl_command_end WHEN TAG IN ('CREATE AGGREGATE', 'DROP TYPE') EXECUTE FUNCTION audit();
  CREATE EVENT TRIGGER rewritten ON table_rewrite EXECUTE FUNCTION audit();
  CREATE EVENT TRIGGER asleep ON ddl_command_end EXECUTE FUNCTION audit();
  ALTER EVENT TRIGGER asleep DISABLE;
  CREATE EVENT TRIGGER replicas_only ON ddl_command_end EXECUTE FUNCTION audit();
  ALTER EVENT TRIGGER replicas_only ENABLE REPLICA;";

#[tokio::test]
async fn event_triggers_on_what_a_run_does_stand_in_the_way_unless_they_are_allowed() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client.batch_execute(EVENT_TRIGGERS).await.unwrap();
    if cluster.major() >= 17 {
        let login = "CREATE EVENT TRIGGER logged_in ON login EXECUTE FUNCTION audit()";
        client.batch_execute(login).await.unwrap();
    }
    let firing = [
        "event trigger \"Wächter\" (ddl_command_end) runs public.audit",
        "event trigger \"always\" (ddl_command_start of CREATE AGGREGATE, ALTER TABLE) runs public.audit",
        "event trigger \"dropped\" (sql_drop of DROP VIEW) runs public.audit",
    ];
    let found = findings(&dsn, "t").await;
    assert_eq!(found.iter().filter(|f| f.check == "event_triggers").count(), 3, "{found:#?}");
    for what in firing {
        refusal(&found, "event_triggers", what);
    }
    let guard = refusal(&found, "event_triggers", "\"Wächter\"");
    assert!(guard.mend.starts_with(
        "ALTER EVENT TRIGGER \"Wächter\" DISABLE meanwhile; or run with --allow-event-triggers"
    ));

    let found = findings_with(&dsn, "t", (EventTriggers::Allow, &[])).await;
    assert_eq!(found.iter().filter(|f| f.check == "event_triggers").count(), 3, "{found:#?}");
    for what in firing {
        the(&found, "event_triggers", Severity::Warn, what);
    }

    let run = ["run", "t", "-d", &dsn, "--rebuild"];
    let output = harness::run(run).await.expect_code(3);
    assert!(output.stderr.contains(firing[0]), "{output}");
    let output = harness::run(run.iter().chain(&["--allow-event-triggers"])).await.expect_code(0);
    assert!(output.stderr.contains(firing[0]), "{output}");
    // One that refuses is named by its function.
    let refuses = "CREATE OR REPLACE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS $$ begin \
                   if tg_tag = 'CREATE TABLE' then raise 'not at noon'; end if; end $$";
    client.batch_execute(&format!("DROP TABLE t_old; {refuses}")).await.unwrap();
    let output = harness::run(run.iter().chain(&["--allow-event-triggers"])).await.expect_code(3);
    // By the name that it had when it was first called: on login, that is, where there is such a thing.
    let audit = if cluster.major() >= 17 { "audit()" } else { "public.audit()" };
    for told in ["not at noon", &format!("in PL/pgSQL function {audit}")] {
        assert!(output.stderr.contains(told), "{output}");
    }
}
