//! Steps of a moment, under locks that keep others out: each as an instant change is made, and noted as done in
//! its own transaction.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::work::{Did, Steps};
use crate::catalog::Table;
use crate::change::Request;
use crate::change::trial::Does;
use crate::cutover::{self, Altered, InPlace, Ready, Sent, Work};
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
        match &stored.step.does {
            Does::AttachKey { key, .. } => return self.attach_key(stored, key).await,
            Does::AttachReference { key } => return self.attach_reference(stored, key).await,
            _ => {}
        }
        let clauses = stored.step.clauses.clone();
        let clauses = clauses.ok_or_else(|| Error::failed("a stored step is not complete"))?;
        let context = self.context;
        let work = Short {
            table: self.source,
            request: Request { alters: vec![clauses], ..Request::default() },
            migration: context.flow.migration,
            epoch: context.writer.epoch,
            number: stored.number,
        };
        // The governor looks whether the hours of the window have come.
        let lock = self.under_lock(&work, &|| context.held.borrow().clone()).await?;
        Ok(Did { lock: Some(lock), rows: None })
    }

    /// Does work of a moment under its lock; `held` is what it has to wait for, if anything.
    pub(super) async fn under_lock(
        &self,
        work: &dyn Work,
        held: &(dyn Fn() -> Option<String> + Sync),
    ) -> Result<Altered> {
        self.under_lock_of(self.source, work, held).await
    }

    /// The same, of another table than the one that is changed.
    pub(super) async fn under_lock_of(
        &self,
        table: &Table,
        work: &dyn Work,
        held: &(dyn Fn() -> Option<String> + Sync),
    ) -> Result<Altered> {
        let (context, caller) = (self.context, Caller::of(self.stretch.run));
        let migration = context.flow.migration;
        let before = BeforeCutover { caller, migration: Some(migration) };
        let limits = || context.settings.borrow().cutover;
        let in_place = InPlace {
            connector: &context.connector,
            role: &format!("{migration}/"),
            table,
            work,
            meter: &context.meter,
            limits: &limits,
            window: None,
            held,
            before: &before,
            sent: &Sent::default(),
        };
        in_place.run().await
    }
}
