//! A key of a partitioned table. An index CONCURRENTLY is built in each partition and made its constraint; then the
//! table's own takes those over, which reads no row. Partitions come and go meanwhile: each is done as it is found, and behind
//! the first lock, where none comes any more, each must have it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

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
        let (migration, epoch) = (self.context.flow.migration, self.context.writer.epoch);
        loop {
            for part in without(self.control, self.source.oid, key).await? {
                let name = part.qualified();
                self.context
                    .meter
                    .note(format!("partition {name} came meanwhile: its index is built"));
                self.key_of(&part, key).await?;
            }
            let lacking = AtomicBool::new(false);
            let (table, number, sql) = (self.source, stored.number, &stored.step.sql);
            let work = Attach { table, key, sql, migration, epoch, number, lacking: &lacking };
            match self.under_lock(&work, &|| self.context.held.borrow().clone()).await {
                Ok(lock) => return Ok(Did { lock: Some(lock), rows: None }),
                Err(_) if lacking.load(Ordering::Relaxed) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The partitions that hold rows and have no such constraint.
async fn without(session: &Session, root: u32, key: &PartKey) -> Result<Vec<Table>> {
    let mut out = Vec::new();
    for oid in catalog::tree(session, root).await? {
        let part = catalog::read(session, oid).await?;
        out.extend(part.filter(|part| !part.is_partitioned() && !key.is_in(part)));
    }
    Ok(out)
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

/// Makes the table's constraint of those of its partitions.
struct Attach<'a> {
    table: &'a Table,
    key: &'a PartKey,
    sql: &'a str,
    migration: i64,
    epoch: i64,
    number: i32,
    /// A partition has none.
    lacking: &'a AtomicBool,
}

impl Work for Attach<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            store::claim_step(session, self.migration, self.epoch, self.number).await?;
            // Behind the first lock nobody attaches one.
            let without = without(session, self.table.oid, self.key).await?;
            if let Some(part) = without.first() {
                self.lacking.store(true, Ordering::Relaxed);
                return Err(Error::failed(format!("{} has no such key", part.qualified())));
            }
            session.batch(&set_role(Some(&self.table.owner))).await?;
            let statements = vec![self.sql.to_owned()];
            Ok(Ready { lock: Lock::AccessExclusive, others: Vec::new(), statements })
        };
        ready.boxed()
    }
}
