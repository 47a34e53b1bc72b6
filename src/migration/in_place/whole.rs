//! A partitioned table takes over what each of its partitions has: a key, a foreign key. No row is read for that.
//! Partitions come and go meanwhile: each is done as it is found, and behind the first lock, where none comes any more,
//! each must have it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::work::{Did, Steps};
use crate::catalog::{self, Table};
use crate::change::trial::{Lock, Other};
use crate::cutover::{Ready, Work};
use crate::error::{Error, Result};
use crate::migration::store::{self, StoredStep};
use crate::pg::Session;
use crate::shadow::set_role;

/// What each partition has before the table has it.
pub(super) trait OfParts: Sync {
    /// What is told to be done to one that came meanwhile.
    const CAME: &str;
    /// Under which the table takes it over.
    const LOCK: Lock;

    fn has(&self, part: &Table) -> bool;
}

impl Steps<'_, '_, '_> {
    /// Gives it to whoever has none, until the table has taken all of them over.
    pub(super) async fn take_over<P: OfParts>(
        &self,
        stored: &StoredStep,
        what: &P,
        give: impl AsyncFn(&Table) -> Result<()>,
    ) -> Result<Did> {
        let (migration, epoch) = (self.context.flow.migration, self.context.writer.epoch);
        loop {
            for part in without(self.control, self.source.oid, what).await? {
                let name = part.qualified();
                let told = format!("partition {name} came meanwhile: {}", P::CAME);
                self.context.meter.note(told);
                give(&part).await?;
            }
            let lacking = AtomicBool::new(false);
            let table = self.source;
            let work = TakeOver { table, what, stored, migration, epoch, lacking: &lacking };
            match self.under_lock(&work, &|| self.context.held.borrow().clone()).await {
                Ok(lock) => return Ok(Did { lock: Some(lock), rows: None }),
                Err(_) if lacking.load(Ordering::Relaxed) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The partitions that hold rows and have none.
async fn without<P: OfParts>(session: &Session, root: u32, what: &P) -> Result<Vec<Table>> {
    let mut out = Vec::new();
    for oid in catalog::tree(session, root).await? {
        let part = catalog::read(session, oid).await?;
        out.extend(part.filter(|part| !part.is_partitioned() && !what.has(part)));
    }
    Ok(out)
}

/// Those that are still there.
pub(super) async fn oids(session: &Session, others: &[Other]) -> Result<Vec<u32>> {
    let names: Vec<&str> = others.iter().map(|other| other.table.as_str()).collect();
    let sql = "SELECT c.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) AS n (name) \
               JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(n.name)";
    Ok(session.query(sql, &[&names]).await?.iter().map(|row| row.get(0)).collect())
}

struct TakeOver<'a, P> {
    table: &'a Table,
    what: &'a P,
    stored: &'a StoredStep,
    migration: i64,
    epoch: i64,
    /// A partition has none.
    lacking: &'a AtomicBool,
}

impl<P: OfParts> Work for TakeOver<'_, P> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            let step = &self.stored.step;
            store::claim_step(session, self.migration, self.epoch, self.stored.number).await?;
            // Behind the first lock nobody attaches one.
            let without = without(session, self.table.oid, self.what).await?;
            if let Some(part) = without.first() {
                self.lacking.store(true, Ordering::Relaxed);
                return Err(Error::failed(format!("{} has no such key", part.qualified())));
            }
            let others = oids(session, &step.others).await?;
            session.batch(&set_role(Some(&self.table.owner))).await?;
            let statements = vec![step.sql.clone()];
            Ok(Ready { lock: P::LOCK, others, statements })
        };
        ready.boxed()
    }
}
