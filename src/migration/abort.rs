//! Undoes an unfinished migration: nothing of it is left afterwards. Safe to repeat, also half-way
//! through a previous abort, after a crash, and while the run is still alive somewhere.
//!
//! Once the names are swapped nothing is undone. A run that died right after that has left its slot,
//! which holds WAL back: such things go, the tables and the state stay.

use super::store::Stored;
use super::{store, teardown};
use crate::catalog;
use crate::error::{Error, Result};
use crate::pg::{Connector, QualifiedName, Session};

/// What an abort came to.
#[derive(Debug)]
pub enum Aborted {
    /// Nothing of the migration is left.
    Undone { table: String, phase: String },
    /// The names were swapped before: only what held the server back is gone.
    Swapped(AfterSwap),
}

/// A migration whose names were swapped, cleaned up after.
#[derive(Debug)]
pub struct AfterSwap {
    pub table: String,
    /// Whether the new table is still there.
    pub is_there: bool,
    /// The old table's name, where it is still there.
    pub retired: Option<String>,
    /// Statements that prove what the swap bound without proof.
    pub to_validate: Vec<String>,
}

/// Aborts the unfinished migration of `table`, or cleans up after one that swapped and did not.
pub async fn abort(connector: &Connector, table: &str) -> Result<Aborted> {
    let session = connector.session("abort").await?;
    // The source may be gone; the state still knows its name.
    let oid = catalog::find(&session, table).await.ok();
    let found = match store::unfinished(&session, oid, table).await? {
        Some(found) => found,
        None => left_by_swap(&session, oid, table).await?.ok_or_else(|| {
            Error::usage(format!("{table} has no unfinished migration"))
                .next("Nothing was changed. See pgwraith.migration for finished ones")
        })?,
    };
    teardown::end_sessions(&session, found.id).await?;
    // Whoever of the old run comes back now finds another epoch and writes nothing.
    store::raise_epoch(&session, found.id).await?;
    teardown::end_sessions(&session, found.id).await?;
    if let Some(slot) = &found.slot {
        teardown::drop_slot(&session, slot).await?;
    }
    // Asked only now: a run that is alive may have swapped until its epoch was over.
    if store::is_swapped(&session, found.id).await? {
        return Ok(Aborted::Swapped(clean_up(&session, &found).await?));
    }
    if let Some(publication) = &found.publication {
        teardown::drop_publication(&session, publication).await?;
    }
    teardown::drop_rows_view(&session, found.id).await?;
    drop_shadow(&session, &found).await?;
    store::forget(&session, found.id).await?;
    let table = QualifiedName::new(found.source_schema, found.source_name);
    Ok(Aborted::Undone { table: table.to_string(), phase: found.phase })
}

/// The last migration that swapped the table's name and was not cleaned up after.
async fn left_by_swap(session: &Session, oid: Option<u32>, table: &str) -> Result<Option<Stored>> {
    for found in store::swapped(session, oid, table).await? {
        if teardown::is_anything_left(session, &found).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The rest of what the run's end would have done, and what there is to be told.
async fn clean_up(session: &Session, found: &Stored) -> Result<AfterSwap> {
    // Together: an abort that is cut off here is repeated from here, and told in the end.
    session.batch("BEGIN").await?;
    if let Some(publication) = &found.publication {
        teardown::drop_publication(session, publication).await?;
    }
    teardown::drop_rows_view(session, found.id).await?;
    store::event(session, found.id, "finished", "cleaned up by an abort").await?;
    session.batch("COMMIT").await?;
    let table = match found.shadow_oid {
        Some(oid) => catalog::name_of(session, oid).await?,
        None => None,
    };
    let is_there = table.is_some();
    let recorded = || QualifiedName::new(&found.source_schema, &found.source_name);
    Ok(AfterSwap {
        table: table.unwrap_or_else(recorded).to_string(),
        is_there,
        retired: catalog::name_of(session, found.source_oid).await?.map(|name| name.to_string()),
        to_validate: store::left_to_validate(session, found.id).await?,
    })
}

/// Only the very table that we made: somebody else's of the same name stays.
async fn drop_shadow(session: &Session, found: &Stored) -> Result<()> {
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
