//! Preflight on real servers: each thing in the way is named with a mend that works, all of them at
//! once, and looking changes nothing.

mod access;
mod server;
mod table;
mod zoo;

use std::collections::BTreeSet;

use pgwraith::catalog;
use pgwraith::conninfo::ConnInfo;
use pgwraith::pg::Connector;
use pgwraith::preflight::{self, EventTriggers, Finding, Severity, Subject};
use pgwraith::shadow::Names;
use tokio_postgres::Client;

/// An ordinary table with everything that this version carries over.
const PLAIN: &str = "
  CREATE ROLE reader;
  CREATE TABLE orders (
    id serial PRIMARY KEY,
    customer int NOT NULL,
    email text COLLATE \"C\" UNIQUE,
    amount numeric(10,2) NOT NULL DEFAULT 0 CONSTRAINT amount_positive CHECK (amount >= 0),
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
    made timestamptz NOT NULL DEFAULT now());
  ALTER TABLE orders ADD CONSTRAINT short CHECK (length(email) < 100) NOT VALID;
  CREATE INDEX orders_customer ON orders (customer) INCLUDE (made) WHERE amount > 5;
  CREATE INDEX orders_lower ON orders (lower(email) DESC NULLS LAST);
  GRANT SELECT, UPDATE ON orders TO reader WITH GRANT OPTION;
  INSERT INTO orders (customer, email) SELECT g, 'e' || g FROM generate_series(1, 1000) g;
  ANALYZE orders;";

/// All findings about `table` (as an operator would type it) of a connection by `dsn`.
async fn findings(dsn: &str, table: &str) -> Vec<Finding> {
    findings_with(dsn, table, (EventTriggers::default(), &[])).await
}

async fn findings_with(
    dsn: &str,
    table: &str,
    (event_triggers, replicas): (EventTriggers, &[String]),
) -> Vec<Finding> {
    let connector = Connector::new(ConnInfo::resolve(Some(dsn)).unwrap());
    let session = connector.session("test").await.unwrap();
    let oid = catalog::find(&session, table).await.unwrap();
    let table = catalog::read(&session, oid).await.unwrap().unwrap();
    let names = Names::of(&table.qualified());
    let subject = Subject {
        connector: &connector,
        session: &session,
        table: &table,
        names: &names,
        event_triggers,
        replicas,
        workers: 2,
        window: None,
    };
    preflight::run(&subject).await.unwrap()
}

fn of(findings: &[Finding], severity: Severity) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == severity).collect()
}

fn refusals(findings: &[Finding]) -> Vec<&Finding> {
    of(findings, Severity::Refuse)
}

/// The names of the checks that refuse.
fn refusing(findings: &[Finding]) -> BTreeSet<&'static str> {
    refusals(findings).iter().map(|f| f.check).collect()
}

/// The finding of `check` with this severity that speaks of `what`.
#[track_caller]
fn the<'a>(findings: &'a [Finding], check: &str, severity: Severity, what: &str) -> &'a Finding {
    let found = findings
        .iter()
        .find(|f| f.check == check && f.severity == severity && f.what.contains(what));
    found.unwrap_or_else(|| panic!("no {severity:?} of {check} about {what:?} in {findings:#?}"))
}

#[track_caller]
fn refusal<'a>(findings: &'a [Finding], check: &str, what: &str) -> &'a Finding {
    the(findings, check, Severity::Refuse, what)
}

/// Runs a mend as it stands, statement by statement (some refuse to share a transaction).
async fn run_mend(client: &Client, mend: &str) {
    for statement in mend.split("; ") {
        client.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
}

/// What a run would leave behind, counted.
async fn everything(client: &Client) -> Vec<i64> {
    let sql = "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace),
        (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_publication),
        (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_depend),
        (SELECT count(*) FROM pg_replication_origin), (SELECT count(*) FROM pg_db_role_setting)";
    let row = client.query_one(sql, &[]).await.unwrap();
    (0..row.len()).map(|n| row.get(n)).collect()
}
