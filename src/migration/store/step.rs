//! The steps of a change in place, and which of them are done.

use serde_json::Value;

use crate::change::trial::Step;
use crate::error::{Error, Result};
use crate::flow::write::superseded;
use crate::pg::Session;

/// A step as stored.
#[derive(Debug)]
pub(in crate::migration) struct StoredStep {
    /// From 1.
    pub number: i32,
    pub step: Step,
    pub began: bool,
    pub done: bool,
}

/// Puts the steps down, all at once, with the session's settings that values are made by; where there are some already,
/// those stay.
pub(in crate::migration) async fn record_steps(
    session: &Session,
    migration: i64,
    epoch: i64,
    steps: &[Step],
) -> Result<()> {
    let all = serde_json::to_value(steps)
        .map_err(|e| Error::failed(format!("the steps cannot be stored: {e}")))?;
    let making = serde_json::to_value(session.making().await?).unwrap_or(Value::Null);
    // In one statement: where there are steps, there are the settings that they are made by.
    let sql = "WITH m AS (UPDATE pgwraith.migration n SET settings = $4 WHERE n.id = $1 AND n.epoch = $2 RETURNING n.id) \
               INSERT INTO pgwraith.step (migration_id, number, step) \
               SELECT m.id, s.number::pg_catalog.int4, s.step FROM m, \
                 pg_catalog.jsonb_array_elements($3) WITH ORDINALITY AS s (step, number) ON CONFLICT DO NOTHING";
    session.execute(sql, &[&migration, &epoch, &all, &making]).await?;
    Ok(())
}

/// The steps, in order; none before they are put down.
pub(in crate::migration) async fn steps(
    session: &Session,
    migration: i64,
) -> Result<Vec<StoredStep>> {
    let sql = "SELECT s.number, s.step, s.began_at IS NOT NULL, s.done_at IS NOT NULL \
               FROM pgwraith.step s WHERE s.migration_id = $1 ORDER BY s.number";
    let unreadable = |e| Error::failed(format!("a stored step cannot be read: {e}"));
    let stored = |row: &tokio_postgres::Row| {
        Ok(StoredStep {
            number: row.get(0),
            step: serde_json::from_value(row.get::<_, Value>(1)).map_err(unreadable)?,
            began: row.get(2),
            done: row.get(3),
        })
    };
    session.query(sql, &[&migration]).await?.iter().map(stored).collect()
}

/// Notes that a step begins: what it leaves where it is cut off is ours.
pub(in crate::migration) async fn begin_step(
    session: &Session,
    migration: i64,
    epoch: i64,
    number: i32,
) -> Result<()> {
    let sql = "UPDATE pgwraith.step s SET began_at = COALESCE(s.began_at, pg_catalog.clock_timestamp()) \
               WHERE s.migration_id = $1 AND s.number = $2 AND s.done_at IS NULL \
                 AND EXISTS (SELECT 1 FROM pgwraith.migration m WHERE m.id = $1 AND m.epoch = $3 FOR KEY SHARE)";
    match session.execute(sql, &[&migration, &number, &epoch]).await? {
        1 => Ok(()),
        _ => Err(superseded()),
    }
}

/// In the open transaction that makes the step: it is done if that commits, and not if not, whatever was heard
/// of it. In this epoch alone, and no step twice (**Invariant 9**).
pub(in crate::migration) async fn claim_step(
    session: &Session,
    migration: i64,
    epoch: i64,
    number: i32,
) -> Result<()> {
    still_mine(session, migration, epoch).await?;
    let sql = "UPDATE pgwraith.step SET done_at = pg_catalog.clock_timestamp() \
               WHERE migration_id = $1 AND number = $2 AND done_at IS NULL";
    match session.execute(sql, &[&migration, &number]).await? {
        1 => Ok(()),
        _ => Err(Error::failed(format!("step {number} was made by another run"))),
    }
}

/// In the same transaction: which column the step is about.
pub(in crate::migration) async fn keep_column(
    session: &Session,
    migration: i64,
    number: i32,
    attnum: i16,
) -> Result<()> {
    let sql = "UPDATE pgwraith.step s SET step = pg_catalog.jsonb_set(s.step, '{does,attnum}', pg_catalog.to_jsonb($3::pg_catalog.int2)) \
               WHERE s.migration_id = $1 AND s.number = $2";
    session.execute(sql, &[&migration, &number, &attnum]).await.map(drop)
}

/// The run of this epoch is the one that may write, from here to the end of the open transaction; or this fails.
pub(in crate::migration) async fn still_mine(
    session: &Session,
    migration: i64,
    epoch: i64,
) -> Result<()> {
    let mine = "SELECT 1 FROM pgwraith.migration WHERE id = $1 AND epoch = $2 FOR KEY SHARE";
    session.maybe(mine, &[&migration, &epoch]).await?.map(drop).ok_or_else(superseded)
}

/// In the transaction that takes the steps back.
pub(in crate::migration) async fn unmake_steps(session: &Session, migration: i64) -> Result<()> {
    let sql = "UPDATE pgwraith.step SET began_at = NULL, done_at = NULL WHERE migration_id = $1";
    session.execute(sql, &[&migration]).await?;
    let ranges = "DELETE FROM pgwraith.chunk WHERE migration_id = $1";
    session.execute(ranges, &[&migration]).await?;
    session.execute("DELETE FROM pgwraith.flow WHERE migration_id = $1", &[&migration]).await?;
    Ok(())
}

/// All steps are done.
pub(in crate::migration) async fn finish_in_place(
    session: &Session,
    migration: i64,
    epoch: i64,
) -> Result<()> {
    let sql = "WITH done AS (UPDATE pgwraith.migration SET phase = 'done', outcome = 'altered', \
                 finished_at = pg_catalog.clock_timestamp() WHERE id = $1 AND epoch = $2 AND finished_at IS NULL RETURNING id) \
               INSERT INTO pgwraith.event (migration_id, what, detail) SELECT d.id, 'finished', '' FROM done d";
    match session.execute(sql, &[&migration, &epoch]).await? {
        1 => Ok(()),
        _ => Err(superseded()),
    }
}

// What is altered in careful steps, and how far that is.
pub(super) const IN_PLACE: &str = "
CREATE TABLE pgwraith.step (
  migration_id int8 NOT NULL, number int4 NOT NULL, step jsonb NOT NULL, began_at timestamptz, done_at timestamptz,
  PRIMARY KEY (migration_id, number));
DROP VIEW pgwraith.status;
CREATE VIEW pgwraith.status AS
SELECT m.id, pg_catalog.format('%I.%I', m.source_schema, m.source_name) AS source,
  CASE WHEN COALESCE((m.change->>'in_place')::bool, false) THEN NULL
    ELSE pg_catalog.format('%I.%I', m.source_schema, m.shadow_name) END AS shadow, m.phase, m.outcome, m.started_at, m.finished_at,
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
    ORDER BY e.id DESC LIMIT 1) AS last_event, x.number AS step, x.steps, x.sql AS step_sql
FROM pgwraith.migration m
LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1
LEFT JOIN pgwraith.progress p ON p.migration_id = m.id
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = f.slot
CROSS JOIN LATERAL (SELECT count(*)::int4 AS steps, min(p.number) FILTER (WHERE p.done_at IS NULL) AS number,
    (array_agg(p.step->>'sql' ORDER BY p.number) FILTER (WHERE p.done_at IS NULL))[1] AS sql
  FROM pgwraith.step p WHERE p.migration_id = m.id) x
CROSS JOIN LATERAL (SELECT COALESCE(sum(c.rows) FILTER (WHERE c.kind IN ('copy', 'fill')), 0)::int8 AS rows_copied,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'verify'), 0)::int8 AS rows_verified,
    COALESCE(sum(c.rows) FILTER (WHERE c.finished_at > clock_timestamp() - interval '1 minute'), 0)::int8 AS rows_last_minute,
    COALESCE(sum(c.rows) FILTER (WHERE c.finished_at > clock_timestamp() - interval '15 minutes'), 0)::int8 AS rows_last_quarter,
    max(c.key_position) FILTER (WHERE c.kind = 'copy' OR c.kind = 'fill' AND c.flow = x.number) AS key_position
  FROM pgwraith.chunk c WHERE c.migration_id = m.id AND c.done) k;
COMMENT ON VIEW pgwraith.status IS 'Where each migration stands, as `pgwraith status` tells it';
GRANT SELECT ON pgwraith.status TO pg_monitor;
CREATE OR REPLACE FUNCTION pgwraith.abort(source regclass) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE
  it int8 := pgwraith.unfinished(source);
  ours text := 'pgwraith/' || it || '/%';
  m pgwraith.migration%ROWTYPE;
  f record;
  ended int8;
BEGIN
  IF EXISTS (SELECT 1 FROM pgwraith.progress p WHERE p.migration_id = it AND p.at > clock_timestamp() - interval '1 minute')
    AND EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.application_name LIKE ours AND a.datname = current_database()) THEN
    UPDATE pgwraith.migration n SET options = COALESCE(NULLIF(n.options, 'null'), '{}') || '{\"abort\": true}' WHERE n.id = it;
    INSERT INTO pgwraith.event (migration_id, what, detail) VALUES (it, 'set', 'abort');
    RETURN 'the run undoes itself within seconds of the COMMIT; what it cannot, `pgwraith abort` does';
  END IF;
  IF EXISTS (SELECT 1 FROM pgwraith.step s WHERE s.migration_id = it AND s.began_at IS NOT NULL) THEN
    RAISE EXCEPTION 'what was done in % itself is undone by `pgwraith abort`, with short locks', source;
  END IF;
  PERFORM pg_terminate_backend(a.pid, 10000) FROM pg_stat_activity a WHERE a.application_name LIKE ours AND a.datname = current_database();
  GET DIAGNOSTICS ended = ROW_COUNT;
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
  DELETE FROM pgwraith.step d WHERE d.migration_id = it;
  DELETE FROM pgwraith.migration d WHERE d.id = it;
  RETURN format('undone: %s; nothing of it is left but schema pgwraith',
    CASE ended WHEN 0 THEN 'nobody ran it' ELSE 'sessions of it that were there are ended' END);
END $body$;
";
