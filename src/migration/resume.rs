//! Which migration a table has that is not done with.

use super::store::{self, Stored};
use super::{name, slot, teardown};
use crate::catalog;
use crate::change::Request;
use crate::error::{Error, Kind, Result};
use crate::pg::{Connector, Session};

/// What a migration was begun with.
pub struct Unfinished {
    pub request: Request,
    /// The flags of its last run.
    pub options: serde_json::Value,
}

/// The unfinished migration of `table`, or one that swapped and did not come to its end; None where there is
/// neither. A dry run is none that anybody goes on with.
pub async fn unfinished(connector: &Connector, table: &str) -> Result<Option<Unfinished>> {
    let session = connector.session("resume").await?;
    let found = look(&session, table).await?;
    let found = found.filter(|stored| !stored.is_dry_run());
    Ok(found.map(|stored| Unfinished { request: stored.request, options: stored.options }))
}

/// The same, as stored; there must be one, of this cluster.
pub(super) async fn find(session: &Session, table: &str) -> Result<Stored> {
    let found = look(session, table).await?.ok_or_else(|| {
        Error::usage(format!("{table} has no unfinished migration"))
            .next("Nothing was changed. `pgwraith run` begins one; pgwraith.migration has the finished ones")
    })?;
    slot::check_cluster(session, &found).await?;
    Ok(found)
}

pub(super) async fn look(session: &Session, table: &str) -> Result<Option<Stored>> {
    // The source may be gone; the state still knows its name.
    let oid = match catalog::find(session, table).await {
        Ok(oid) => Some(oid),
        Err(e) if e.kind() == Kind::Usage => None,
        Err(e) => return Err(e),
    };
    if let Some(oid) = oid {
        if let Some(found) = store::unfinished(session, oid).await? {
            return Ok(Some(found));
        }
    }
    let Some(said) = name::said(session, table, oid).await? else { return Ok(None) };
    // The table may have been dropped, renamed, or made anew since.
    let found = store::unfinished_by_name(session, &said.name).await?;
    if let Some(found) = said.those_meant(found)?.into_iter().next() {
        return Ok(Some(found));
    }
    let mut swapped = match oid {
        Some(oid) => store::swapped(session, oid).await?,
        None => vec![],
    };
    let mut named = said.those_meant(store::swapped_by_name(session, &said.name).await?)?;
    // Where the name is another table's by now, only what is left to be run is to do with it: that names
    // the table, whichever has the name.
    if oid.is_none() {
        swapped.append(&mut named);
    }
    for found in swapped {
        if !store::is_finished(session, found.id).await?
            || teardown::is_anything_left(session, &found).await?
            || !store::left_to_validate(session, found.id).await?.is_empty()
        {
            return Ok(Some(found));
        }
    }
    for found in named {
        if !store::left_to_validate(session, found.id).await?.is_empty() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
