//! A key of a partitioned table. An index CONCURRENTLY is built in each partition and made its constraint; then the
//! table's own takes those over, which reads no row. Partitions come and go meanwhile: each is done as it is found, and behind
//! the first lock, where none comes any more, each must have it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::whole::OfParts;
use super::work::{Did, Steps};
use crate::catalog::{self, Table};
use crate::change::trial::{Lock, PartKey};
use crate::cutover::{Ready, Work};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::migration::store::{self, StoredStep};
use crate::pg::Session;
use crate::shadow::set_role;

impl Steps<'_, '_, '_> {
    pub(super) async fn build_part(
        &self,
        stored: &StoredStep,
        part: u32,
        key: &PartKey,
    ) -> Result<Did> {
        // What is gone, or no partition any more, needs none.
        let table = catalog::read(self.control, part).await?;
        if let Some(table) = table.filter(|table| table.is_partition) {
            self.key_of(&table, key).await?;
        }
        self.settle(stored).await?;
        Ok(Did::default())
    }

    async fn key_of(&self, part: &Table, key: &PartKey) -> Result<()> {
        if key.is_in(part) {
            return Ok(());
        }
        let (table, name) = (part.qualified(), key.name(&part.name));
        match part.indexes.iter().find(|index| index.name == name) {
            Some(index) if key.is_index(index) => {}
            Some(index) if index.valid => {
                let what = format!("somebody made another index {name:?} of {table} meanwhile");
                return Err(Error::failed(what).next("Rename or drop it"));
            }
            there => {
                if there.is_some() {
                    self.drop_invalid(part, &name).await?;
                }
                self.create(&key.create(&table), part, &name).await?;
                failpoint!("index made");
            }
        }
        let (migration, epoch) = (self.context.flow.migration, self.context.writer.epoch);
        let work = AddKey { part, add: key.add(&table), migration, epoch };
        self.under_lock_of(part, &work, &|| self.context.held.borrow().clone()).await?;
        Ok(())
    }

    pub(super) async fn attach_key(&self, stored: &StoredStep, key: &PartKey) -> Result<Did> {
        self.take_over(stored, key, async |part| self.key_of(part, key).await).await
    }
}

impl OfParts for PartKey {
    const CAME: &str = "its index is built";
    const LOCK: Lock = Lock::AccessExclusive;

    fn has(&self, part: &Table) -> bool {
        self.is_in(part)
    }
}

/// Makes the index of a partition its constraint.
struct AddKey<'a> {
    part: &'a Table,
    add: String,
    migration: i64,
    epoch: i64,
}

impl Work for AddKey<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            store::still_mine(session, self.migration, self.epoch).await?;
            session.batch(&set_role(Some(&self.part.owner))).await?;
            let statements = vec![self.add.clone()];
            Ok(Ready { lock: Lock::AccessExclusive, others: Vec::new(), statements })
        };
        ready.boxed()
    }
}
