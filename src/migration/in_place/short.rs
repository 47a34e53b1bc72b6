//! Steps of a moment, under locks that keep others out: each as an instant change is made, and noted as done in
//! its own transaction.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::work::{Did, Steps};
use crate::catalog::Table;
use crate::change::Request;
use crate::cutover::{self, InPlace, Ready, Sent, Work};
use crate::error::{Error, Result};
use crate::migration::hooked::{BeforeCutover, Caller};
use crate::migration::store::{self, StoredStep};
use crate::pg::Session;

struct Short<'a> {
    table: &'a Table,
    request: Request,
    migration: i64,
    epoch: i64,
    number: i32,
}

impl Work for Short<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            // Before the lock: whoever writes to the state does not keep the application waiting.
            store::claim_step(session, self.migration, self.epoch, self.number).await?;
            cutover::still_instant(session, self.table, &self.request).await
        };
        ready.boxed()
    }
}

impl Steps<'_, '_, '_> {
    pub(super) async fn short(&self, stored: &StoredStep) -> Result<Did> {
        let clauses = stored.step.clauses.clone();
        let clauses = clauses.ok_or_else(|| Error::failed("a stored step is not complete"))?;
        let (context, run) = (self.context, self.stretch.run);
        let migration = context.flow.migration;
        let work = Short {
            table: self.source,
            request: Request { alters: vec![clauses], ..Request::default() },
            migration,
            epoch: context.writer.epoch,
            number: stored.number,
        };
        let before = BeforeCutover { caller: Caller::of(run), migration: Some(migration) };
        let limits = context.settings.borrow().cutover;
        let in_place = InPlace {
            connector: &context.connector,
            role: &format!("{migration}/"),
            table: self.source,
            work: &work,
            meter: &context.meter,
            limits,
            // The governor looks whether they have come.
            window: None,
            held: &|| context.held.borrow().clone(),
            before: &before,
            sent: &Sent::default(),
        };
        let lock = in_place.run().await?;
        Ok(Did { lock: Some(lock), rows: None })
    }
}
