//! What the shadow already has of the planned indexes: the phase may be entered again after a crash
//! at any instant, and the catalog alone says how far it came.

use std::collections::HashMap;

use super::Planned;
use crate::catalog::{self, Table};
use crate::error::{Error, Result};
use crate::flow::write::Isolation;
use crate::migration::context::Context;
use crate::migration::teardown;
use crate::pg::{QualifiedName, Session};
use crate::shadow::Present;

/// What is still to be done for some planned indexes.
pub(super) struct Missing<'a> {
    /// To be built, in the plans' order.
    pub(super) build: Vec<&'a Planned>,
    /// To be made constraints once they are built, in the plans' order.
    pub(super) attach: Vec<&'a Planned>,
}

/// Drops what is there and does not fit: an invalid index that a broken CREATE INDEX CONCURRENTLY
/// left, one with another definition. Says what is missing then.
///
/// No builder is at work for us when this is called. One that is all the same belongs to a run, or a
/// connection, that is gone; it would get in the way, and what it builds cannot be seen yet.
pub(super) async fn missing<'a>(context: &Context, plans: &'a [Planned]) -> Result<Missing<'a>> {
    let mut missing = Missing { build: Vec::new(), attach: Vec::new() };
    if plans.is_empty() {
        return Ok(missing);
    }
    let session = context.session("indexes").await?;
    // In a transaction of Invariant 9: a run that another has taken over ends and drops nothing.
    context.writer.begin(&session, Isolation::ReadCommitted).await?;
    teardown::end_builders(&session, context.flow.migration).await?;
    let mut tables: HashMap<&QualifiedName, Table> = HashMap::new();
    for planned in plans {
        if !tables.contains_key(&planned.on) {
            tables.insert(&planned.on, now(&session, &planned.on).await?);
        }
    }
    context.writer.as_owner(&session).await?;
    for planned in plans {
        let Some(table) = tables.get(&planned.on) else { continue };
        let present = planned.plan.present(table);
        if let Present::Unfit(drop) = &present {
            tracing::info!("index {} is left from before and does not fit", planned.plan.temporary);
            session.batch(drop).await?;
        }
        if matches!(present, Present::Nothing | Present::Unfit(_)) {
            missing.build.push(planned);
        }
        if present != Present::Whole && planned.plan.attach.is_some() {
            missing.attach.push(planned);
        }
    }
    session.batch("COMMIT").await?;
    Ok(missing)
}

/// The shadow, or a partition of it, as it is now.
pub(super) async fn now(session: &Session, name: &QualifiedName) -> Result<Table> {
    catalog::read_named(session, name)
        .await?
        .ok_or_else(|| Error::failed(format!("the shadow {name} is gone")))
}
