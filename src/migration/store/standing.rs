//! Where migrations stand, for whoever may read that alone.

// Paces are of the phase that is under way; what the swap waits for; and how far a verification had come before it
// began once more.
pub(super) const STANDING: &str = "
DROP VIEW pgwraith.status;
CREATE VIEW pgwraith.status AS
SELECT m.id, pg_catalog.format('%I.%I', m.source_schema, m.source_name) AS source,
  CASE WHEN COALESCE((m.change->>'in_place')::bool, false) THEN NULL
    ELSE pg_catalog.format('%I.%I', m.source_schema, m.shadow_name) END AS shadow, m.phase, m.outcome, m.started_at, m.finished_at,
  m.host, m.process, k.rows_copied, k.rows_verified, k.rows_last_minute, k.rows_last_quarter, k.paced_seconds, k.key_position,
  m.rows_estimated,
  f.slot, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8 AS slot_bytes, s.safe_wal_size,
  pg_catalog.age(s.catalog_xmin) AS slot_xmin_age, s.wal_status,
  COALESCE((p.facts->>'verify_floor')::float8, 0) AS verify_floor, p.facts->>'lock_waits' AS lock_waits,
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
CROSS JOIN LATERAL (SELECT CASE m.phase WHEN 'in place' THEN 'fill' WHEN 'dry run' THEN 'copy' ELSE m.phase END AS kind) w
CROSS JOIN LATERAL (SELECT COALESCE(sum(c.rows) FILTER (WHERE c.kind IN ('copy', 'fill')), 0)::int8 AS rows_copied,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'verify'), 0)::int8 AS rows_verified,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '1 minute'), 0)::int8 AS rows_last_minute,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '15 minutes'), 0)::int8 AS rows_last_quarter,
    date_part('epoch', clock_timestamp() - min(c.finished_at)
      FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '15 minutes')) AS paced_seconds,
    max(c.key_position) FILTER (WHERE c.kind = 'copy' OR c.kind = 'fill' AND c.flow = x.number) AS key_position
  FROM pgwraith.chunk c WHERE c.migration_id = m.id AND c.done) k;
COMMENT ON VIEW pgwraith.status IS 'Where each migration stands, as `pgwraith status` tells it';
GRANT SELECT ON pgwraith.status TO pg_monitor;
";
