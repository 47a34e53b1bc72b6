//! Undoes an unfinished migration: nothing of it is left afterwards. Safe to repeat, also half-way
//! through a previous abort, after a crash, and while the run is still alive somewhere.

use super::{store, teardown};
use crate::catalog;
use crate::error::{Error, Result};
use crate::pg::{Connector, QualifiedName};

/// What an abort removed.
#[derive(Debug, serde::Serialize)]
pub struct Aborted {
    pub table: String,
    pub phase: String,
}

/// Aborts the unfinished migration of `table`.
pub async fn abort(connector: &Connector, table: &str) -> Result<Aborted> {
    let session = connector.session("abort").await?;
    // The source may be gone; the state still knows its name.
    let oid = catalog::find(&session, table).await.ok();
    let Some(found) = store::unfinished(&session, oid, table).await? else {
        return Err(Error::usage(format!("{table} has no unfinished migration"))
            .next("Nothing was changed. See pgwraith.migration for finished ones"));
    };
    teardown::end_sessions(&session, found.id).await?;
    // Whoever of the old run comes back now finds another epoch and writes nothing.
    store::raise_epoch(&session, found.id).await?;
    teardown::end_sessions(&session, found.id).await?;
    if let Some(slot) = &found.slot {
        teardown::drop_slot(&session, slot).await?;
    }
    if let Some(publication) = &found.publication {
        teardown::drop_publication(&session, publication).await?;
    }
    teardown::drop_rows_view(&session, found.id).await?;
    drop_shadow(&session, &found).await?;
    store::forget(&session, found.id).await?;
    let table = QualifiedName::new(found.source_schema, found.source_name);
    Ok(Aborted { table: table.to_string(), phase: found.phase })
}

/// Only the very table that we made: somebody else's of the same name stays.
async fn drop_shadow(session: &crate::pg::Session, found: &store::Stored) -> Result<()> {
    let Some(oid) = found.shadow_oid else { return Ok(()) };
    let shadow = QualifiedName::new(&found.source_schema, &found.shadow_name);
    let sql = "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
               ON n.oid = c.relnamespace WHERE c.oid = $1 AND c.oid <> $4 \
               AND n.nspname = $2 AND c.relname = $3";
    let ours = session.maybe(sql, &[&oid, &shadow.schema, &shadow.name, &found.source_oid]).await?;
    if ours.is_some() {
        session.batch(&format!("DROP TABLE {shadow}")).await?;
    }
    Ok(())
}
