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
    does: &'a Does,
}

impl Work for Short<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            // Before the lock: whoever writes to the state does not keep the application waiting.
            store::claim_step(session, self.migration, self.epoch, self.number).await?;
            if let Some(attnum) = self.column(session).await? {
                store::keep_column(session, self.migration, self.number, attnum).await?;
            }
            cutover::still_instant(session, self.table, &self.request).await
        };
        ready.boxed()
    }
}

impl Short<'_> {
    /// The number that the step's column has, or will have: the first lock keeps others from adding one.
    async fn column(&self, session: &Session) -> Result<Option<i16>> {
        let sql = "SELECT COALESCE(a.attnum, c.relnatts + 1)::pg_catalog.int2 FROM pg_catalog.pg_class c \
                   LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 WHERE c.oid = $1";
        let name = match self.does {
            Does::AddColumn { .. } => None,
            Does::SetNotNull { column, .. } => Some(column),
            _ => return Ok(None),
        };
        let row = session.maybe(sql, &[&self.table.oid, &name]).await?;
        Ok(row.map(|row| row.get(0)))
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
            does: &stored.step.does,
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
