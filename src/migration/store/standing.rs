//! Where migrations stand, for whoever may read that alone.

// Paces are of the phase that is under way; what the swap waits for; and how far a verification had come before it
// began once more. What is not at its end is never told to be, and never less than before, since nothing here ever is:
// the estimate is the one that the migration began with. When it will be over is told by the pace of the last minute
// and that of the last quarter of an hour; of a time shorter than ten seconds neither says anything of the time to come,
// and a month ahead nothing is known. Verification reads both tables at about the pace at which one is read and the
// other written (measured: 3.9 s and 4.0 s). A run tells each second, but nobody watches over a preparation, nor over what
// is behind the swap. LEAST and GREATEST look past NULL.
pub(super) const STANDING: &str = "
DROP VIEW pgwraith.status;
CREATE VIEW pgwraith.status AS
SELECT m.id, pg_catalog.format('%I.%I', m.source_schema, m.source_name) AS source,
  CASE WHEN COALESCE((m.change->>'in_place')::bool, false) THEN NULL
    ELSE pg_catalog.format('%I.%I', m.source_schema, m.shadow_name) END AS shadow, m.phase, m.outcome, m.started_at, m.finished_at,
  m.host, m.process, k.rows_copied, k.rows_verified, k.rows_last_minute, k.rows_last_quarter, k.paced_seconds, k.key_position,
  m.rows_estimated, 100 * d.share AS percent, e.minute AS rows_per_second, d.rows_left,
  CASE WHEN m.phase = 'copy' THEN every.rows / NULLIF(e.minute, 0) END AS verify_seconds,
  CASE WHEN NOT h.rests THEN clock_timestamp() + e.first * interval '1 second' END AS eta_first,
  CASE WHEN NOT h.rests THEN clock_timestamp() + e.last * interval '1 second' END AS eta_last,
  f.slot, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8 AS slot_bytes, s.safe_wal_size,
  pg_catalog.age(s.catalog_xmin) AS slot_xmin_age, s.wal_status,
  COALESCE((p.facts->>'verify_floor')::float8, 0) AS verify_floor, p.facts->>'lock_waits' AS lock_waits,
  p.at AS progress_at, silent.seconds AS silent_seconds, p.facts->>'reason' AS reason, (p.facts->>'keys_waiting')::int8 AS keys_waiting,
  (p.facts->>'keys_synced')::int8 AS keys_synced, (p.facts->>'keys_in')::float8 AS keys_in_per_second,
  (p.facts->>'keys_out')::float8 AS keys_out_per_second, p.facts->'signals' AS signals,
  COALESCE((m.options->>'pause')::bool, false) AS paused,
  COALESCE((m.options->>'postpone_cutover')::bool, false) AS postponed, m.options->>'cutover_window' AS cutover_window,
  (SELECT e.what || COALESCE(': ' || NULLIF(e.detail, ''), '') FROM pgwraith.event e WHERE e.migration_id = m.id
    ORDER BY e.id DESC LIMIT 1) AS last_event, x.number AS step, x.steps, x.sql AS step_sql,
  CASE WHEN m.finished_at IS NOT NULL THEN 'nothing'
    WHEN NOT COALESCE(h.silence < 60, false) AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE h.ours)
      THEN 'nobody runs it: `pgwraith status` tells what to do'
    ELSE COALESCE((SELECT 'pid ' || string_agg(b.pid || ' ' || COALESCE(b.usename, '?'), ', ' ORDER BY b.pid) || ' keeps it waiting'
        FROM pg_catalog.pg_stat_activity b WHERE NOT b.application_name LIKE h.ours AND b.pid IN (
          SELECT unnest(pg_catalog.pg_blocking_pids(w.pid)) FROM pg_catalog.pg_stat_activity w
          WHERE w.application_name LIKE h.ours AND w.wait_event_type = 'Lock')),
      CASE WHEN silent.seconds > 0 THEN 'the run has said nothing for a while'
        WHEN (m.options->>'pause')::bool THEN 'it is paused'
        WHEN (m.options->>'postpone_cutover')::bool AND m.phase = 'cutover' THEN 'it waits for `pgwraith cutover`' END,
      p.facts->>'lock_waits', 'nothing') END AS needs_you
FROM pgwraith.migration m
LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1
LEFT JOIN pgwraith.progress p ON p.migration_id = m.id
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = f.slot
CROSS JOIN LATERAL (SELECT count(*)::int4 AS steps, min(p.number) FILTER (WHERE p.done_at IS NULL) AS number,
    (array_agg(p.step->>'sql' ORDER BY p.number) FILTER (WHERE p.done_at IS NULL))[1] AS sql
  FROM pgwraith.step p WHERE p.migration_id = m.id) x
CROSS JOIN LATERAL (SELECT CASE m.phase WHEN 'in place' THEN 'fill' WHEN 'dry run' THEN 'copy' ELSE m.phase END AS kind) w
CROSS JOIN LATERAL (SELECT COALESCE(sum(c.rows) FILTER (WHERE c.kind IN ('copy', 'fill')), 0)::int8 AS rows_copied,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'copy' OR c.kind = 'fill' AND c.flow = x.number), 0)::int8 AS rows_at_hand,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = 'verify'), 0)::int8 AS rows_verified,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '1 minute'), 0)::int8 AS rows_last_minute,
    COALESCE(sum(c.rows) FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '15 minutes'), 0)::int8 AS rows_last_quarter,
    date_part('epoch', clock_timestamp() - min(c.finished_at)
      FILTER (WHERE c.kind = w.kind AND c.finished_at > clock_timestamp() - interval '15 minutes')) AS paced_seconds,
    max(c.key_position) FILTER (WHERE c.kind = 'copy' OR c.kind = 'fill' AND c.flow = x.number)::float8 AS key_position
  FROM pgwraith.chunk c WHERE c.migration_id = m.id AND c.done) k
CROSS JOIN LATERAL (SELECT NULLIF(GREATEST(m.rows_estimated, k.rows_copied), 0) AS rows) every
CROSS JOIN LATERAL (SELECT CASE m.phase WHEN 'copy' THEN COALESCE(k.key_position, CASE WHEN m.rows_estimated IS NOT NULL THEN k.rows_copied::float8 / GREATEST(m.rows_estimated, 1) END)
      WHEN 'in place' THEN k.key_position
      WHEN 'verify' THEN CASE WHEN every.rows > 0 THEN z.floor + (1 - z.floor) * LEAST(k.rows_verified::float8 / every.rows, 1) END
    END AS share
  FROM (SELECT COALESCE((p.facts->>'verify_floor')::float8, 0) AS floor) z) r
CROSS JOIN LATERAL (SELECT CASE WHEN r.share IS NOT NULL THEN LEAST(GREATEST(r.share, 0), 0.99) END AS share) c
CROSS JOIN LATERAL (SELECT c.share, CASE WHEN z.rows < 0 THEN 0 ELSE z.rows END AS rows_left
  FROM (SELECT CASE WHEN c.share IS NULL THEN NULL
    WHEN m.phase IN ('copy', 'in place') AND k.key_position > 0 THEN k.rows_at_hand / GREATEST(c.share, 0.001) * (1 - c.share)
    WHEN m.phase = 'copy' THEN m.rows_estimated - k.rows_copied
    ELSE every.rows - k.rows_verified END AS rows) z) d
CROSS JOIN LATERAL (SELECT k.rows_last_minute / LEAST(60, z.seconds) AS minute, k.rows_last_quarter / LEAST(900, z.seconds) AS quarter
  FROM (SELECT GREATEST(k.paced_seconds, 1) AS seconds) z) t
CROSS JOIN LATERAL (SELECT t.minute, CASE WHEN z.known THEN z.first END AS first, CASE WHEN z.known THEN z.last END AS last
  FROM (SELECT y.first, y.last, k.paced_seconds >= 10 AND y.last <= 30 * 86400 AS known FROM (
    SELECT LEAST(d.rows_left / NULLIF(t.minute, 0), d.rows_left / NULLIF(t.quarter, 0)) AS first,
      GREATEST(d.rows_left / NULLIF(t.minute, 0), d.rows_left / NULLIF(t.quarter, 0)) AS last) y) z) e
CROSS JOIN LATERAL (SELECT 'pgwraith/' || m.id || '/%' AS ours,
    COALESCE((m.options->>'pause')::bool, false) OR COALESCE((p.facts->>'workers')::int4 = 0, false) AS rests,
    date_part('epoch', clock_timestamp() - GREATEST(p.at, m.run_started_at))::int8 AS silence) h
CROSS JOIN LATERAL (SELECT CASE WHEN h.silence > 10 AND m.phase NOT IN ('prepare', 'done', 'dry run') THEN h.silence END AS seconds) silent;
COMMENT ON VIEW pgwraith.status IS 'Where each migration stands, as `pgwraith status` tells it';
GRANT SELECT ON pgwraith.status TO pg_monitor;
";
