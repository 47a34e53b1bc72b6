//! Undoes an unfinished migration: nothing of it is left afterwards. Safe to repeat, also half-way
//! through a previous abort, after a crash, and while the run is still alive somewhere.
//!
//! Once the names are swapped nothing is undone. A run that died right after that has left its slot,
//! which holds WAL back: such things go, the tables and the state stay.

use super::in_place::Undone;
use super::store::Stored;
use super::unfinished::Shadow;
use super::{after, in_place, resume, row, store, takeover, teardown};
use crate::catalog;
use crate::error::{Error, Result};
use crate::pg::{Connector, Session, quote_literal};
use crate::telemetry::Meter;

/// What an abort came to.
#[derive(Debug)]
pub enum Aborted {
    /// Nothing of the migration is left, but for a table that may not be its shadow.
    Undone { table: String, phase: String, shadow: Shadow },
    /// What steps had made in the table itself is taken back, but for what is left.
    InPlace { table: String, undone: Undone },
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
    /// Statements that are left to run: they prove what the swap bound without proof, or move what it could
    /// not move under its lock.
    pub to_validate: Vec<String>,
}

impl AfterSwap {
    /// What there is to know about the statements, besides that they are to be run.
    pub fn unproven(&self) -> Option<&'static str> {
        after::unproven(&self.to_validate)
    }
}

/// Aborts the unfinished migration of `table`, or cleans up after one that swapped and did not.
pub async fn abort(connector: &Connector, table: &str, meter: &Meter) -> Result<Aborted> {
    let session = connector.session("abort").await?;
    let found = resume::look(&session, table).await?.ok_or_else(|| {
        Error::usage(format!("{table} has no unfinished migration"))
            .next("Nothing was changed. See pgwraith.migration for finished ones; `pgwraith cleanup` lists what no state knows of")
    })?;
    store::ensure(&session).await?;
    // Before anything is ended or noted.
    row::refuse_outsiders(&session, &found).await?;
    undo(connector, &session, found, meter).await
}

/// Aborts this migration, or cleans up after it.
pub(super) async fn undo(
    connector: &Connector,
    session: &Session,
    found: Stored,
    meter: &Meter,
) -> Result<Aborted> {
    store::ensure(session).await?;
    // Whatever somebody took of the state away is no reason not to.
    if let Err(e) = note_who(session, &found).await {
        tracing::debug!("who aborts is not noted: {e}");
    }
    let epoch = takeover::cut_off(session, found.id).await?;
    if found.request.in_place {
        return undo_in_place(connector, session, &found, epoch, meter).await;
    }
    // Asked only now: a run that is alive may have swapped until its epoch was over.
    if store::is_swapped(session, found.id).await? {
        return Ok(Aborted::Swapped(clean_up(session, &found).await?));
    }
    let shadow = teardown::undo(session, &found, meter).await?;
    store::forget(session, found.id).await?;
    Ok(Aborted::Undone { table: found.names.source.to_string(), phase: found.phase, shadow })
}

/// In the state as long as that is there, and in the server's log for good.
async fn note_who(session: &Session, found: &Stored) -> Result<()> {
    let body = format!(
        "BEGIN RAISE LOG 'pgwraith: the migration of % is aborted by % from %', {}, SESSION_USER, \
         COALESCE(pg_catalog.host(pg_catalog.inet_client_addr()), 'a local socket'); END",
        quote_literal(&found.names.source.to_string())
    );
    session.batch(&format!("DO {}", quote_literal(&body))).await?;
    store::event(session, found.id, "abort", "").await
}

async fn undo_in_place(
    connector: &Connector,
    session: &Session,
    found: &Stored,
    epoch: i64,
    meter: &Meter,
) -> Result<Aborted> {
    let table = found.names.source.to_string();
    // Asked only now: a run that is alive may have come to its end until its epoch was over.
    if store::is_finished(session, found.id).await? {
        return Err(Error::usage(format!(
            "the change of {table} in place is done: there is nothing to abort"
        ))
        .next("What it did is undone by ALTER TABLE"));
    }
    let undone = in_place::undo(connector, session, found, epoch, meter).await?;
    store::forget(session, found.id).await?;
    Ok(Aborted::InPlace { table, undone })
}

/// The rest of what the run's end would have done, and what there is to be told.
async fn clean_up(session: &Session, found: &Stored) -> Result<AfterSwap> {
    teardown::release(session, found).await?;
    // Last: an abort that is cut off before is repeated.
    store::event(session, found.id, "finished", "cleaned up by an abort").await?;
    let table = match found.shadow_oid {
        Some(oid) => catalog::name_of(session, oid).await?,
        None => None,
    };
    let is_there = table.is_some();
    Ok(AfterSwap {
        table: table.unwrap_or_else(|| found.names.source.clone()).to_string(),
        is_there,
        retired: catalog::name_of(session, found.source_oid).await?.map(|name| name.to_string()),
        to_validate: store::left_to_validate(session, found.id).await?,
    })
}
