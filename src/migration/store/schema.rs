//! The state's tables, and how those of an older version become those of this one.

use super::access::{self, Use};
use super::standing::STANDING;
use super::step::IN_PLACE;
use crate::error::{Error, Kind, Result};
use crate::pg::Session;

/// What each version added to the one before. One that this program does not know is refused. The last two make the
/// same: the ninth had less to show.
const VERSIONS: [&str; 10] =
    [CREATE, RESUME, WATCHING, CONTROL, COUNTING, PARTITIONS, COURSE, IN_PLACE, STANDING, STANDING];

/// Makes the state's tables where they are not there, brings older ones up to date, and refuses those
/// of a newer version.
pub(in crate::migration) async fn ensure(session: &Session) -> Result<()> {
    let known = VERSIONS.len() as i32;
    let mut found = version(session).await?;
    access::check(session, Use::Write).await?;
    if found.is_some_and(|found| found < known) {
        // Another run may be at it.
        session.batch("BEGIN; LOCK TABLE pgwraith.schema_version IN EXCLUSIVE MODE").await?;
        let from = version(session).await?.unwrap_or(known).clamp(0, known);
        for step in &VERSIONS[from as usize..] {
            session.batch(step).await?;
        }
        let sql = "UPDATE pgwraith.schema_version SET version = $1";
        session.execute(sql, &[&known]).await?;
        session.batch("COMMIT").await?;
        found = Some(known);
    }
    if found.is_none() {
        if !exists(session).await? {
            match create(session).await {
                // Another run was faster.
                Err(e) if matches!(e.sqlstate(), Some("42P06" | "23505")) => {
                    session.rollback().await;
                }
                made => made?,
            }
        }
        // It may have been there since we first looked, too.
        found = version(session).await?;
    }
    match found {
        Some(found) if found == known => Ok(()),
        found => Err(Error::new(
            Kind::Refused,
            format!(
                "the state in schema pgwraith has version {}, this program knows version {known}",
                found.map_or("none".to_owned(), |v| v.to_string())
            ),
        )
        .next("Use the version of pgwraith that made it")),
    }
}

/// For whoever only reads: a state of this version is left alone.
pub(in crate::migration) async fn to_read(session: &Session) -> Result<()> {
    match version(session).await? {
        Some(found) if found == VERSIONS.len() as i32 => Ok(()),
        _ => ensure(session).await,
    }
}

async fn create(session: &Session) -> Result<()> {
    let steps = VERSIONS.join("\n");
    let known = VERSIONS.len();
    let sql =
        format!("BEGIN; {steps} UPDATE pgwraith.schema_version SET version = {known}; COMMIT");
    session.batch(&sql).await
}

async fn exists(session: &Session) -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regnamespace('pgwraith') IS NOT NULL";
    Ok(session.one(sql, &[]).await?.get(0))
}

/// The version that is there; None where there is no state.
pub(super) async fn version(session: &Session) -> Result<Option<i32>> {
    access::check(session, Use::Read).await?;
    let there = "SELECT pg_catalog.to_regclass('pgwraith.schema_version') IS NOT NULL";
    if !session.one(there, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = session.maybe("SELECT version FROM pgwraith.schema_version", &[]).await?;
    Ok(row.map(|row| row.get(0)))
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

// What a run needs to go on where another one stopped.
const RESUME: &str = "
COMMENT ON SCHEMA pgwraith IS 'State of pgwraith, online schema change. `pgwraith resume TABLE` goes on with an unfinished \
migration, `pgwraith abort TABLE` undoes it, `pgwraith cleanup` finds whatever is left. To undo one by hand, when the tool is gone: \
SELECT slot, publication FROM pgwraith.flow; then SELECT pg_drop_replication_slot(slot); DROP PUBLICATION publication; \
DROP VIEW pgwraith.rows_<id of the migration> if there is one; DROP TABLE the shadow (pgwraith.migration.shadow_name); \
DELETE FROM pgwraith.migration WHERE id = it, or DROP SCHEMA pgwraith CASCADE with the last one. The source table is untouched until the swap.';
ALTER TABLE pgwraith.migration ADD COLUMN options jsonb, ADD COLUMN host text, ADD COLUMN process int8,
  ADD COLUMN run_started_at timestamptz;
ALTER TABLE pgwraith.flow ADD COLUMN projection jsonb, ADD COLUMN key jsonb, ADD COLUMN shape jsonb,
  ADD COLUMN fingerprint jsonb, ADD COLUMN unproven bool NOT NULL DEFAULT false;
ALTER TABLE pgwraith.chunk ADD COLUMN lower_key bytea, ADD COLUMN upper_key bytea;
ALTER TABLE pgwraith.event ADD COLUMN role text;
";

// What a run sees of itself, and by that when it was last there: also to be known after a crash of the server. Not in
// its row of pgwraith.migration, which writers lock under repeatable read.
const WATCHING: &str = "
CREATE TABLE pgwraith.progress (
  migration_id int8 PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), facts jsonb NOT NULL);
CREATE VIEW pgwraith.status AS
SELECT m.id, pg_catalog.format('%I.%I', m.source_schema, m.source_name) AS source,
  pg_catalog.format('%I.%I', m.source_schema, m.shadow_name) AS shadow, m.phase, m.outcome, m.started_at, m.finished_at,
  m.host, m.process, k.rows_copied, k.rows_verified, k.rows_last_minute,
  NULLIF(GREATEST(t.reltuples, 0), 0)::int8 AS rows_estimated,
  f.slot, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8 AS slot_bytes, s.safe_wal_size,
  pg_catalog.age(s.catalog_xmin) AS slot_xmin_age, s.wal_status,
  p.at AS progress_at, p.facts->>'reason' AS reason, (p.facts->>'keys_waiting')::int8 AS keys_waiting,
  (p.facts->>'keys_synced')::int8 AS keys_synced, p.facts->'signals' AS signals,
  COALESCE((m.options->>'pause')::bool, false) AS paused,
  COALESCE((m.options->>'postpone_cutover')::bool, false) AS postponed,
  (SELECT e.what || COALESCE(': ' || NULLIF(e.detail, ''), '') FROM pgwraith.event e WHERE e.migration_id = m.id
    ORDER BY e.id DESC LIMIT 1) AS last_event
FROM pgwraith.migration m
LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1
LEFT JOIN pgwraith.progress p ON p.migration_id = m.id
LEFT JOIN pg_catalog.pg_class t ON t.oid = m.source_oid
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = f.slot
CROSS JOIN LATERAL (SELECT COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'copy'), 0)::int8 AS rows_copied,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'verify'), 0)::int8 AS rows_verified,
    COALESCE(sum(c.rows) FILTER (WHERE c.finished_at > clock_timestamp() - interval '1 minute'), 0)::int8 AS rows_last_minute
  FROM pgwraith.chunk c WHERE c.migration_id = m.id AND c.done) k;
COMMENT ON VIEW pgwraith.status IS 'Where each migration stands, as `pgwraith status` tells it';
GRANT SELECT ON pgwraith.status TO pg_monitor;
";

// How far a run is by the key, what it was estimated at when it began (ANALYZE in mid-run must not make it go
// backwards), how fast it has been lately; and a hand on it from any client.
const CONTROL: &str = "
ALTER TABLE pgwraith.migration ADD COLUMN rows_estimated int8;
ALTER TABLE pgwraith.chunk ADD COLUMN key_position float4;
DROP VIEW pgwraith.status;
CREATE VIEW pgwraith.status AS
SELECT m.id, pg_catalog.format('%I.%I', m.source_schema, m.source_name) AS source,
  pg_catalog.format('%I.%I', m.source_schema, m.shadow_name) AS shadow, m.phase, m.outcome, m.started_at, m.finished_at,
  m.host, m.process, k.rows_copied, k.rows_verified, k.rows_last_minute, k.rows_last_quarter, k.key_position,
  m.rows_estimated,
  f.slot, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8 AS slot_bytes, s.safe_wal_size,
  pg_catalog.age(s.catalog_xmin) AS slot_xmin_age, s.wal_status,
  p.at AS progress_at, p.facts->>'reason' AS reason, (p.facts->>'keys_waiting')::int8 AS keys_waiting,
  (p.facts->>'keys_synced')::int8 AS keys_synced, (p.facts->>'keys_in')::float8 AS keys_in_per_second,
  (p.facts->>'keys_out')::float8 AS keys_out_per_second, p.facts->'signals' AS signals,
  COALESCE((m.options->>'pause')::bool, false) AS paused,
  COALESCE((m.options->>'postpone_cutover')::bool, false) AS postponed, m.options->>'cutover_window' AS cutover_window,
  (SELECT e.what || COALESCE(': ' || NULLIF(e.detail, ''), '') FROM pgwraith.event e WHERE e.migration_id = m.id
    ORDER BY e.id DESC LIMIT 1) AS last_event
FROM pgwraith.migration m
LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1
LEFT JOIN pgwraith.progress p ON p.migration_id = m.id
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = f.slot
CROSS JOIN LATERAL (SELECT COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'copy'), 0)::int8 AS rows_copied,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'verify'), 0)::int8 AS rows_verified,
    COALESCE(sum(c.rows) FILTER (WHERE c.finished_at > clock_timestamp() - interval '1 minute'), 0)::int8 AS rows_last_minute,
    COALESCE(sum(c.rows) FILTER (WHERE c.finished_at > clock_timestamp() - interval '15 minutes'), 0)::int8 AS rows_last_quarter,
    max(c.key_position) FILTER (WHERE c.kind = 'copy') AS key_position
  FROM pgwraith.chunk c WHERE c.migration_id = m.id AND c.done) k;
COMMENT ON VIEW pgwraith.status IS 'Where each migration stands, as `pgwraith status` tells it';
GRANT SELECT ON pgwraith.status TO pg_monitor;
CREATE FUNCTION pgwraith.unfinished(source regclass) RETURNS int8 LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE found int8 := (SELECT m.id FROM pgwraith.migration m WHERE m.source_oid = source AND m.finished_at IS NULL);
BEGIN
  IF found IS NULL THEN RAISE EXCEPTION '% has no unfinished migration', source USING HINT = 'SELECT * FROM pgwraith.status'; END IF;
  RETURN found;
END $body$;
CREATE FUNCTION pgwraith.pause(source regclass, rest bool DEFAULT true) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE it int8 := pgwraith.unfinished(source);
BEGIN
  UPDATE pgwraith.migration m SET options = COALESCE(NULLIF(m.options, 'null'), '{}') || jsonb_build_object('pause', rest) WHERE m.id = it;
  INSERT INTO pgwraith.event (migration_id, what, detail) VALUES (it, 'set', CASE WHEN rest THEN 'pause=on' ELSE 'pause=off' END);
  RETURN CASE WHEN rest THEN 'a run rests within a second of the COMMIT; pgwraith.pause(table, false) lets it go on'
    ELSE 'a run goes on within a second of the COMMIT' END;
END $body$;
CREATE FUNCTION pgwraith.abort(source regclass) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE
  it int8 := pgwraith.unfinished(source);
  ours text := 'pgwraith/' || it || '/%';
  m pgwraith.migration%ROWTYPE;
  f record;
BEGIN
  IF EXISTS (SELECT 1 FROM pgwraith.progress p WHERE p.migration_id = it AND p.at > clock_timestamp() - interval '1 minute')
    AND EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.application_name LIKE ours AND a.datname = current_database()) THEN
    UPDATE pgwraith.migration n SET options = COALESCE(NULLIF(n.options, 'null'), '{}') || '{\"abort\": true}' WHERE n.id = it;
    INSERT INTO pgwraith.event (migration_id, what, detail) VALUES (it, 'set', 'abort');
    RETURN 'the run undoes itself within seconds of the COMMIT; what it cannot, `pgwraith abort` does';
  END IF;
  PERFORM pg_terminate_backend(a.pid, 10000) FROM pg_stat_activity a WHERE a.application_name LIKE ours AND a.datname = current_database();
  SELECT * INTO m FROM pgwraith.migration n WHERE n.id = it FOR UPDATE;
  -- Whoever ran it may have swapped until just now, and the shadow be the table that everybody uses.
  IF NOT FOUND OR m.finished_at IS NOT NULL THEN RAISE EXCEPTION '% has no unfinished migration any more', source; END IF;
  FOR f IN SELECT w.publication, s.slot_name FROM pgwraith.flow w LEFT JOIN pg_replication_slots s
    ON s.slot_name = w.slot AND s.database = current_database() WHERE w.migration_id = it LOOP
    IF f.slot_name IS NOT NULL THEN PERFORM pg_drop_replication_slot(f.slot_name); END IF;
    EXECUTE format('DROP PUBLICATION IF EXISTS %I', f.publication);
  END LOOP;
  EXECUTE format('DROP VIEW IF EXISTS pgwraith.%I', 'rows_' || it);
  -- An oid alone proves nothing.
  IF EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = m.shadow_oid
      AND c.oid <> m.source_oid AND c.relname = m.shadow_name AND n.nspname = m.source_schema) THEN
    EXECUTE format('DROP TABLE %I.%I', m.source_schema, m.shadow_name);
  ELSIF m.shadow_oid IS NOT NULL THEN
    RAISE WARNING 'the shadow %.% is not where it was: whatever became of it is left', m.source_schema, m.shadow_name;
  END IF;
  DELETE FROM pgwraith.dirty d WHERE d.migration_id = it;
  DELETE FROM pgwraith.chunk d WHERE d.migration_id = it;
  DELETE FROM pgwraith.flow d WHERE d.migration_id = it;
  DELETE FROM pgwraith.event d WHERE d.migration_id = it;
  DELETE FROM pgwraith.progress d WHERE d.migration_id = it;
  DELETE FROM pgwraith.migration d WHERE d.id = it;
  RETURN 'undone: nobody ran it; nothing of it is left but schema pgwraith';
END $body$;
";

// How many ranges of the copy were handed out: rows of pgwraith.chunk that somebody deleted are missed. NULL where
// an older version began the copy.
const COUNTING: &str = "
ALTER TABLE pgwraith.flow ADD COLUMN ranges int8;
";

// The partitions of the new table, which are derived from the rows once; NULL where it has none.
const PARTITIONS: &str = "
ALTER TABLE pgwraith.flow ADD COLUMN partitions jsonb;
";

// The order that ranges are copied in, where that is not the key's: their bounds are of it.
const COURSE: &str = "
ALTER TABLE pgwraith.flow ADD COLUMN course jsonb;
";
