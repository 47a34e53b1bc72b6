//! A foreign key of a partitioned table. Each partition is given one, NOT VALID at first, and proven; then the table's own
//! takes those over, which reads no row. Partitions come and go meanwhile: each is done as it is found, and behind the
//! first lock, where none comes any more, each must have it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::violating;
use super::whole::{OfParts, oids};
use super::work::{Did, Steps};
use crate::catalog::{self, Table};
use crate::change::trial::{Lock, Other, PartReference, Referring};
use crate::cutover::{Ready, Work};
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::migration::store::{self, StoredStep};
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};
use crate::shadow::set_role;

impl Steps<'_, '_, '_> {
    pub(super) async fn refer_part(
        &self,
        stored: &StoredStep,
        part: u32,
        key: &PartReference,
    ) -> Result<Did> {
        // What is gone, or no partition any more, needs none.
        let table = catalog::read(self.control, part).await?;
        if let Some(table) = table.filter(|table| table.is_partition) {
            self.reference_of(&table, key, &stored.step.others).await?;
        }
        self.settle(stored).await?;
        Ok(Did::default())
    }

    async fn reference_of(
        &self,
        part: &Table,
        key: &PartReference,
        others: &[Other],
    ) -> Result<()> {
        let name = match key.is_in(part) {
            (Referring::Proven, _) => return Ok(()),
            (Referring::NotValid, name) => name.unwrap_or(key.name()),
            (Referring::Not, _) => {
                let (migration, epoch) = (self.context.flow.migration, self.context.writer.epoch);
                let work = Add { part, key, others, migration, epoch };
                self.under_lock_of(part, &work, &|| self.context.held.borrow().clone()).await?;
                failpoint!("reference made");
                key.name()
            }
        };
        let sql = PartReference::validate(&part.qualified(), name);
        match self.read_all(&sql, None).await {
            Err(e) if classify(&e) == Class::RowsDoNotFit => {
                Err(violating::told(self, part.oid, name, e).await)
            }
            done => done,
        }
    }

    pub(super) async fn attach_reference(
        &self,
        stored: &StoredStep,
        key: &PartReference,
    ) -> Result<Did> {
        let others = &stored.step.others;
        self.take_over(stored, key, async |part| self.reference_of(part, key, others).await).await
    }
}

impl OfParts for PartReference {
    const CAME: &str = "its rows are proven";
    const LOCK: Lock = Lock::ShareRowExclusive;

    fn has(&self, part: &Table) -> bool {
        self.is_in(part).0 == Referring::Proven
    }
}

/// Gives a partition its own, NOT VALID.
struct Add<'a> {
    part: &'a Table,
    key: &'a PartReference,
    others: &'a [Other],
    migration: i64,
    epoch: i64,
}

impl Work for Add<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            store::still_mine(session, self.migration, self.epoch).await?;
            let others = oids(session, self.others).await?;
            session.batch(&set_role(Some(&self.part.owner))).await?;
            let statements = vec![self.key.add(&self.part.qualified())];
            Ok(Ready { lock: Lock::ShareRowExclusive, others, statements })
        };
        ready.boxed()
    }
}
