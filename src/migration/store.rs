//! The state in the database: schema `pgwraith`, keyed by migration id and flow.

use crate::change::Request;
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::pg::{Lsn, Session};
use crate::shadow::Names;

use super::Phase;

/// The version of the tables below. A newer one is refused; an older one is upgraded in place.
const SCHEMA_VERSION: i32 = 1;

/// Makes the state's tables where they are not there, and refuses those of a newer version.
pub(super) async fn ensure(session: &Session) -> Result<()> {
    if session.one("SELECT pg_catalog.to_regnamespace('pgwraith') IS NULL", &[]).await?.get(0) {
        session.batch(&format!("BEGIN; {CREATE} COMMIT")).await?;
    }
    let row = session.maybe("SELECT version FROM pgwraith.schema_version", &[]).await?;
    match row.map(|r| r.get::<_, i32>(0)) {
        Some(SCHEMA_VERSION) => Ok(()),
        found => Err(Error::new(
            Kind::Refused,
            format!(
                "the state in schema pgwraith has version {}, this program knows version {SCHEMA_VERSION}",
                found.map_or("none".to_owned(), |v| v.to_string())
            ),
        )
        .next("Use the version of pgwraith that made it")),
    }
}

/// One migration as stored.
pub(super) struct Stored {
    pub id: i64,
    pub phase: String,
    pub source_schema: String,
    pub source_name: String,
    pub source_oid: u32,
    pub shadow_name: String,
    pub shadow_oid: Option<u32>,
    pub publication: Option<String>,
    pub slot: Option<String>,
}

/// The unfinished migration of a table, by its oid or, where the table is gone, by its name.
pub(super) async fn unfinished(
    session: &Session,
    oid: Option<u32>,
    name: &str,
) -> Result<Option<Stored>> {
    let found = find(session, "m.finished_at IS NULL", "m.source_oid", oid, name).await?;
    Ok(found.into_iter().next())
}

/// The migrations whose swap gave a table its shape, the last one first. By the shadow's oid: after the
/// swap that is the table which has the name.
pub(super) async fn swapped(
    session: &Session,
    oid: Option<u32>,
    name: &str,
) -> Result<Vec<Stored>> {
    find(session, "m.outcome = 'swapped'", "m.shadow_oid", oid, name).await
}

/// Those in a state, whose table has this oid in `column`, or the recorded name where no oid is known.
async fn find(
    session: &Session,
    state: &str,
    column: &str,
    oid: Option<u32>,
    name: &str,
) -> Result<Vec<Stored>> {
    if session.one("SELECT pg_catalog.to_regclass('pgwraith.migration') IS NULL", &[]).await?.get(0)
    {
        return Ok(vec![]);
    }
    let sql = format!(
        "SELECT m.id, m.phase, m.source_schema, m.source_name, m.source_oid, m.shadow_name, \
         m.shadow_oid, f.publication, f.slot FROM pgwraith.migration m \
         LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1 \
         WHERE {state} AND ({column} = $1 OR $1::pg_catalog.oid IS NULL \
         AND $2 IN (m.source_name, m.source_schema || '.' || m.source_name, \
           pg_catalog.format('%I.%I', m.source_schema, m.source_name))) ORDER BY m.id DESC"
    );
    let rows = session.query(&sql, &[&oid, &name]).await?;
    let stored = |r: &tokio_postgres::Row| Stored {
        id: r.get(0),
        phase: r.get(1),
        source_schema: r.get(2),
        source_name: r.get(3),
        source_oid: r.get(4),
        shadow_name: r.get(5),
        shadow_oid: r.get(6),
        publication: r.get(7),
        slot: r.get(8),
    };
    Ok(rows.iter().map(stored).collect())
}

/// Begins a migration: its row, epoch 1. Refused where the table has one already.
///
/// Its id is the transaction's, so that no later migration ever has the same, although an abort
/// drops the state and with it any counter: slot, publication and sessions are named by the id, and
/// a run that wakes up after its abort must not mistake its successor's for its own
/// (**Invariant 9**).
pub(super) async fn begin(
    session: &Session,
    source_oid: u32,
    names: &Names,
    request: &Request,
) -> Result<i64> {
    let change = serde_json::to_value(request)
        .map_err(|e| Error::failed(format!("the change cannot be stored: {e}")))?;
    let row = session
        .one(
            "INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, \
             retired_name, change, tool_version) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
            &[
                &names.source.schema,
                &names.source.name,
                &source_oid,
                &names.shadow.name,
                &names.retired.name,
                &change,
                &env!("CARGO_PKG_VERSION"),
            ],
        )
        .await
        .map_err(|e| match e.sqlstate() {
            Some("23505") => {
                Error::new(Kind::Refused, format!("{} has another migration already", names.source))
                    .next(format!(
                        "See it in pgwraith.migration; `pgwraith abort {}` ends it",
                        names.source
                    ))
            }
            _ => e,
        })?;
    Ok(row.get(0))
}

/// Records the flow before its publication and slot are made, so that an abort finds them.
pub(super) async fn record_flow(session: &Session, flow: &Flow) -> Result<()> {
    let key: Vec<&str> = flow.key.iter().map(|k| k.source.as_str()).collect();
    let sql = "INSERT INTO pgwraith.flow (migration_id, flow, source_oid, target, publication, \
               slot, key_columns) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let target = flow.target.root.to_string();
    session
        .execute(
            sql,
            &[
                &flow.migration,
                &flow.number,
                &flow.captured.oid,
                &target,
                &flow.publication,
                &flow.slot,
                &key,
            ],
        )
        .await?;
    Ok(())
}

/// Records which cluster the slot is on and where it starts.
pub(super) async fn record_slot(
    session: &Session,
    flow: &Flow,
    system: (&str, i32),
    start: Lsn,
) -> Result<()> {
    let (identifier, timeline) = system;
    session
        .execute(
            "UPDATE pgwraith.migration SET system_identifier = $2, timeline = $3 WHERE id = $1",
            &[&flow.migration, &identifier, &timeline],
        )
        .await?;
    let sql = "UPDATE pgwraith.flow SET stored_lsn = $3 WHERE migration_id = $1 AND flow = $2";
    session.execute(sql, &[&flow.migration, &flow.number, &start]).await?;
    Ok(())
}

/// Records the shadow's oid and the settings that the projection runs under.
pub(super) async fn record_shadow(
    session: &Session,
    migration: i64,
    oid: u32,
    settings: &serde_json::Value,
) -> Result<()> {
    let sql = "UPDATE pgwraith.migration SET shadow_oid = $2, settings = $3 WHERE id = $1";
    session.execute(sql, &[&migration, &oid, &settings]).await?;
    Ok(())
}

/// Enters a phase. Called only while no writer has a transaction open: under repeatable read they
/// would fail to lock the row.
pub(super) async fn enter(session: &Session, migration: i64, phase: Phase) -> Result<()> {
    let sql = "UPDATE pgwraith.migration SET phase = $2 WHERE id = $1";
    session.execute(sql, &[&migration, &phase.as_str()]).await?;
    event(session, migration, "phase", phase.as_str()).await
}

/// Whether the migration's names were swapped.
pub(super) async fn is_swapped(session: &Session, migration: i64) -> Result<bool> {
    let sql = "SELECT outcome IS NOT DISTINCT FROM 'swapped' FROM pgwraith.migration WHERE id = $1";
    Ok(session.maybe(sql, &[&migration]).await?.is_some_and(|row| row.get(0)))
}

/// The statements that were to be run after the swap and were not, as far as anybody can tell: by hand
/// is as good, and a run may have died before it could say that it was done.
pub(super) async fn left_to_validate(session: &Session, migration: i64) -> Result<Vec<String>> {
    // Written as where they are made.
    let sql = "
      SELECT e.detail FROM pgwraith.event e WHERE e.migration_id = $1 AND e.what = 'to do'
        AND NOT EXISTS (SELECT 1 FROM pgwraith.event d WHERE d.migration_id = $1
          AND d.what = 'done' AND d.detail = e.detail AND d.id > e.id)
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE k.convalidated AND e.detail = pg_catalog.format(
            'ALTER TABLE \"%s\".\"%s\" VALIDATE CONSTRAINT \"%s\"',
            pg_catalog.replace(n.nspname::pg_catalog.text, '\"', '\"\"'),
            pg_catalog.replace(c.relname::pg_catalog.text, '\"', '\"\"'),
            pg_catalog.replace(k.conname::pg_catalog.text, '\"', '\"\"')))
      ORDER BY e.id";
    let rows = session.query(sql, &[&migration]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Who asked for what, or what happened, when.
pub(super) async fn event(session: &Session, id: i64, what: &str, detail: &str) -> Result<()> {
    let sql = "INSERT INTO pgwraith.event (migration_id, what, detail) VALUES ($1, $2, $3)";
    session.execute(sql, &[&id, &what, &detail]).await?;
    Ok(())
}

/// **Invariant 9**: raises the epoch under FOR UPDATE, which waits for every transaction of an
/// older run that has locked the row FOR KEY SHARE; any later one finds another epoch.
pub(super) async fn raise_epoch(session: &Session, migration: i64) -> Result<i64> {
    session.batch("BEGIN").await?;
    let lock = "SELECT 1 FROM pgwraith.migration WHERE id = $1 FOR UPDATE";
    session.query(lock, &[&migration]).await?;
    let sql = "UPDATE pgwraith.migration SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch";
    let row = session.one(sql, &[&migration]).await?;
    session.batch("COMMIT").await?;
    Ok(row.get(0))
}

/// Begins a transaction in which no successor can begin or abort the migration; false, and no
/// transaction, where one has already.
pub(super) async fn hold_epoch(session: &Session, migration: i64, epoch: i64) -> Result<bool> {
    session.batch("BEGIN").await?;
    let sql = "SELECT 1 FROM pgwraith.migration WHERE id = $1 AND epoch = $2 FOR KEY SHARE";
    let held = match session.maybe(sql, &[&migration, &epoch]).await {
        Ok(row) => Ok(row.is_some()),
        // The state is gone, with its schema or without.
        Err(e) if e.db().is_some_and(|d| ["42P01", "3F000"].contains(&d.code().code())) => {
            Ok(false)
        }
        Err(e) => Err(e),
    };
    if !matches!(held, Ok(true)) {
        session.rollback().await;
    }
    held
}

/// Removes a migration's state, and the schema with the last one.
pub(super) async fn forget(session: &Session, migration: i64) -> Result<()> {
    session.batch("BEGIN").await?;
    for table in ["dirty", "chunk", "flow", "event"] {
        let sql = format!("DELETE FROM pgwraith.{table} WHERE migration_id = $1");
        session.execute(&sql, &[&migration]).await?;
    }
    session.execute("DELETE FROM pgwraith.migration WHERE id = $1", &[&migration]).await?;
    let last: bool =
        session.one("SELECT NOT EXISTS (SELECT 1 FROM pgwraith.migration)", &[]).await?.get(0);
    if last {
        session.batch("DROP SCHEMA pgwraith CASCADE").await?;
    }
    session.batch("COMMIT").await
}

const CREATE: &str = "
CREATE SCHEMA pgwraith;
COMMENT ON SCHEMA pgwraith IS 'State of pgwraith, online schema change. To undo an unfinished migration by hand: \
SELECT slot, publication FROM pgwraith.flow; then SELECT pg_drop_replication_slot(slot); DROP PUBLICATION publication; \
DROP VIEW pgwraith.rows_<id of the migration> if there is one; DROP TABLE the shadow (pgwraith.migration.shadow_name). The source table is untouched until the swap.';
GRANT USAGE ON SCHEMA pgwraith TO PUBLIC;
CREATE TABLE pgwraith.schema_version (version int4 NOT NULL);
INSERT INTO pgwraith.schema_version VALUES (1);
CREATE TABLE pgwraith.migration (
  id int8 PRIMARY KEY DEFAULT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
  source_schema text NOT NULL, source_name text NOT NULL, source_oid oid NOT NULL,
  shadow_name text NOT NULL, shadow_oid oid, retired_name text NOT NULL,
  change jsonb NOT NULL, settings jsonb, tool_version text NOT NULL,
  phase text NOT NULL DEFAULT 'prepare', epoch int8 NOT NULL DEFAULT 1,
  system_identifier text, timeline int4,
  started_by text NOT NULL DEFAULT session_user,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz, outcome text);
CREATE UNIQUE INDEX one_migration_per_table ON pgwraith.migration (source_oid) WHERE finished_at IS NULL;
CREATE TABLE pgwraith.flow (
  migration_id int8 NOT NULL, flow int4 NOT NULL, source_oid oid NOT NULL, target text NOT NULL,
  publication text NOT NULL, slot text NOT NULL, key_columns text[] NOT NULL, stored_lsn pg_lsn,
  PRIMARY KEY (migration_id, flow));
CREATE TABLE pgwraith.chunk (
  migration_id int8 NOT NULL, flow int4 NOT NULL, kind text NOT NULL, number int8 NOT NULL,
  lower text[], upper text[], done bool NOT NULL DEFAULT false, rows int8, checksum numeric,
  snapshot_xmax xid8, finished_at timestamptz,
  PRIMARY KEY (migration_id, flow, kind, number));
CREATE TABLE pgwraith.dirty (
  id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  migration_id int8 NOT NULL, flow int4 NOT NULL, kind text NOT NULL, key bytea NOT NULL, xid xid8 NOT NULL);
-- A key may be longer than what an ordered index takes.
CREATE INDEX dirty_key ON pgwraith.dirty USING hash (key);
CREATE TABLE pgwraith.event (
  id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  migration_id int8 NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  who text NOT NULL DEFAULT session_user, client inet DEFAULT inet_client_addr(),
  what text NOT NULL, detail text);
CREATE FUNCTION pgwraith.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  RAISE EXCEPTION '%.% was retired by an online schema change and takes no writes', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state',
      HINT = 'Write to the table that took its name; drop this one when nothing needs it any more.';
END $body$;
";
