//! Which migration a table has that is not done with.

use super::store::{self, Stored};
use super::teardown;
use crate::catalog;
use crate::change::Request;
use crate::error::{Error, Result};
use crate::pg::{Connector, Session};

/// What a migration was begun with.
pub struct Unfinished {
    pub request: Request,
    /// The flags of its last run.
    pub options: serde_json::Value,
}

/// The unfinished migration of `table`, or one that swapped and did not come to its end; None where there is
/// neither.
pub async fn unfinished(connector: &Connector, table: &str) -> Result<Option<Unfinished>> {
    let session = connector.session("resume").await?;
    let found = look(&session, table).await?;
    Ok(found.map(|stored| Unfinished { request: stored.request, options: stored.options }))
}

/// The same, as stored; there must be one.
pub(super) async fn find(session: &Session, table: &str) -> Result<Stored> {
    look(session, table).await?.ok_or_else(|| {
        Error::usage(format!("{table} has no unfinished migration"))
            .next("Nothing was changed. `pgwraith run` begins one; pgwraith.migration has the finished ones")
    })
}

pub(super) async fn look(session: &Session, table: &str) -> Result<Option<Stored>> {
    // The source may be gone; the state still knows its name.
    let oid = catalog::find(session, table).await.ok();
    if let Some(found) = store::unfinished(session, oid, table).await? {
        return Ok(Some(found));
    }
    for found in store::swapped(session, oid, table).await? {
        if !store::is_finished(session, found.id).await?
            || teardown::is_anything_left(session, &found).await?
            || !store::left_to_validate(session, found.id).await?.is_empty()
        {
            return Ok(Some(found));
        }
    }
    // What a swap left to be run names the table, whichever has the name since: another run may have swapped
    // once more.
    let Some(oid) = oid else { return Ok(None) };
    let Some(name) = catalog::name_of(session, oid).await? else { return Ok(None) };
    for found in store::swapped_by_name(session, &name).await? {
        if !store::left_to_validate(session, found.id).await?.is_empty() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
