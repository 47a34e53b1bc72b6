//! **Invariant 9**: who may write.

use crate::error::Result;
use crate::pg::Session;
use crate::pg::sqlstate::UNDEFINED_TABLE;

/// Raises the epoch under FOR UPDATE, which waits for every transaction of an older run that has locked
/// the row FOR KEY SHARE; any later one finds another epoch. None, and nothing raised, where the epoch
/// is not `mine`: somebody took over.
pub(in crate::migration) async fn raise_epoch(
    session: &Session,
    migration: i64,
    mine: Option<i64>,
) -> Result<Option<i64>> {
    session.batch("BEGIN").await?;
    let lock = "SELECT 1 FROM pgwraith.migration WHERE id = $1 FOR UPDATE";
    session.query(lock, &[&migration]).await?;
    let (host, process) = (host(), i64::from(std::process::id()));
    let sql = "UPDATE pgwraith.migration SET epoch = epoch + 1, host = $3, process = $4, \
               run_started_at = pg_catalog.clock_timestamp() \
               WHERE id = $1 AND ($2::pg_catalog.int8 IS NULL OR epoch = $2) RETURNING epoch";
    let row = session.maybe(sql, &[&migration, &mine, &host, &process]).await?;
    session.batch("COMMIT").await?;
    Ok(row.map(|row| row.get(0)))
}

/// The machine that this process runs on.
pub(in crate::migration) fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname");
    named.map_or_else(|_| "an unknown host".to_owned(), |name| name.trim().to_owned())
}

/// Seconds since the last run was there, or since the server has been back where it was there shortly before
/// the server went; None where that is not known.
pub(in crate::migration) async fn silence(
    session: &Session,
    migration: i64,
) -> Result<Option<f64>> {
    // The state may be of an older version.
    let there = "SELECT pg_catalog.to_regclass('pgwraith.progress') IS NOT NULL";
    if !session.one(there, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - \
                 GREATEST(m.seen, CASE WHEN s.started - m.seen < interval '30 minutes' THEN s.started END)) \
               FROM (SELECT p.at AS seen FROM pgwraith.progress p WHERE p.migration_id = $1) m, \
                 (SELECT pg_catalog.pg_postmaster_start_time() AS started) s";
    Ok(session.maybe(sql, &[&migration]).await?.and_then(|row| row.get(0)))
}

/// Begins a transaction in which no successor can begin or abort the migration; false, and no
/// transaction, where one has already.
pub(in crate::migration) async fn hold_epoch(
    session: &Session,
    migration: i64,
    epoch: i64,
) -> Result<bool> {
    session.batch("BEGIN").await?;
    let sql = "SELECT 1 FROM pgwraith.migration WHERE id = $1 AND epoch = $2 FOR KEY SHARE";
    let held = match session.maybe(sql, &[&migration, &epoch]).await {
        Ok(row) => Ok(row.is_some()),
        // The state is gone, with its schema or without.
        Err(e) if matches!(e.sqlstate(), Some(UNDEFINED_TABLE | "3F000")) => Ok(false),
        Err(e) => Err(e),
    };
    if !matches!(held, Ok(true)) {
        session.rollback().await;
    }
    held
}
