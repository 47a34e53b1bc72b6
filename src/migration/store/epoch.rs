//! **Invariant 9**: who may write.

use crate::error::Result;
use crate::pg::Session;

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
pub(super) fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname");
    named.map_or_else(|_| "an unknown host".to_owned(), |name| name.trim().to_owned())
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
        Err(e) if matches!(e.sqlstate(), Some("42P01" | "3F000")) => Ok(false),
        Err(e) => Err(e),
    };
    if !matches!(held, Ok(true)) {
        session.rollback().await;
    }
    held
}
