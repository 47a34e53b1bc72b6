//! What a run sees of itself, for whoever asks.

use serde_json::Value;

use crate::error::Result;
use crate::pg::Session;

/// In place of what was there, while the run is of this epoch.
pub(in crate::migration) async fn keep_progress(
    session: &Session,
    migration: i64,
    epoch: i64,
    facts: &Value,
) -> Result<()> {
    let sql = "INSERT INTO pgwraith.progress (migration_id, facts) \
               SELECT m.id, $3 FROM pgwraith.migration m WHERE m.id = $1 AND m.epoch = $2 \
               ON CONFLICT (migration_id) DO UPDATE SET facts = EXCLUDED.facts, at = pg_catalog.clock_timestamp()";
    session.execute(sql, &[&migration, &epoch, facts]).await?;
    Ok(())
}
