//! What a run sees of itself, for whoever asks.

use serde_json::Value;

use crate::error::Result;
use crate::pg::Session;

/// In place of what was there, while the run is of this epoch; what it does not know stays as it was.
pub(in crate::migration) async fn keep_progress(
    session: &Session,
    migration: i64,
    epoch: i64,
    facts: &Value,
) -> Result<()> {
    let sql = "INSERT INTO pgwraith.progress (migration_id, facts) \
               SELECT m.id, $3 FROM pgwraith.migration m WHERE m.id = $1 AND m.epoch = $2 \
               ON CONFLICT (migration_id) DO UPDATE SET facts = pgwraith.progress.facts || EXCLUDED.facts, at = pg_catalog.clock_timestamp()";
    session.execute(sql, &[&migration, &epoch, facts]).await?;
    Ok(())
}

/// Before a verification begins once more: how far it had come, as a share of all. What it then reads again is told as a
/// part of the rest, so that nobody sees it go backwards.
pub(in crate::migration) async fn keep_compared(session: &Session, migration: i64) -> Result<()> {
    let sql = "UPDATE pgwraith.progress p SET facts = p.facts || pg_catalog.jsonb_build_object('verify_floor', \
                 f.floor + (1 - f.floor) * LEAST(s.rows_verified::pg_catalog.float8 / GREATEST(s.rows_copied, s.rows_estimated, 1), 1)) \
               FROM pgwraith.status s, LATERAL (SELECT s.verify_floor AS floor) f WHERE s.id = $1 AND p.migration_id = $1";
    session.execute(sql, &[&migration]).await?;
    Ok(())
}

/// Bytes of WAL that a worker of the copy wrote in a second, as whoever copied last has found out.
pub(in crate::migration) async fn copy_rate(
    session: &Session,
    migration: i64,
) -> Result<Option<u64>> {
    let sql = "SELECT (p.facts->>'copy_wal_per_second')::pg_catalog.int8 FROM pgwraith.progress p \
               WHERE p.migration_id = $1";
    let row = session.maybe(sql, &[&migration]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<i64>>(0)).and_then(|rate| u64::try_from(rate).ok()))
}
