//! A foreign key of a partitioned table. Each partition is given one, NOT VALID at first, and proven; then the table's own
//! takes those over, which reads no row. Partitions come and go meanwhile: each is done as it is found, and behind the
//! first lock, where none comes any more, each must have it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::violating;
use super::work::{Did, Steps};
use crate::catalog::{self, Table};
use crate::change::trial::{Lock, Other, PartReference, Referring};
use crate::cutover::{Ready, Work};
use crate::error::{Error, Result};
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
        let (migration, epoch) = (self.context.flow.migration, self.context.writer.epoch);
        loop {
            for part in without(self.control, self.source.oid, key).await? {
                let name = part.qualified();
                let told = format!("partition {name} came meanwhile: its rows are proven");
                self.context.meter.note(told);
                self.reference_of(&part, key, &stored.step.others).await?;
            }
            let lacking = AtomicBool::new(false);
            let table = self.source;
            let work = Attach { table, key, stored, migration, epoch, lacking: &lacking };
            match self.under_lock(&work, &|| self.context.held.borrow().clone()).await {
                Ok(lock) => return Ok(Did { lock: Some(lock), rows: None }),
                Err(_) if lacking.load(Ordering::Relaxed) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The partitions that hold rows and for which it is not proven.
async fn without(session: &Session, root: u32, key: &PartReference) -> Result<Vec<Table>> {
    let mut out = Vec::new();
    for oid in catalog::tree(session, root).await? {
        let part = catalog::read(session, oid).await?;
        let lacks = |part: &Table| key.is_in(part).0 != Referring::Proven;
        out.extend(part.filter(|part| !part.is_partitioned() && lacks(part)));
    }
    Ok(out)
}

/// Those that are still there.
async fn oids(session: &Session, others: &[Other]) -> Result<Vec<u32>> {
    let names: Vec<&str> = others.iter().map(|other| other.table.as_str()).collect();
    let sql = "SELECT c.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) AS n (name) \
               JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(n.name)";
    Ok(session.query(sql, &[&names]).await?.iter().map(|row| row.get(0)).collect())
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

/// Makes the table's of those of its partitions.
struct Attach<'a> {
    table: &'a Table,
    key: &'a PartReference,
    stored: &'a StoredStep,
    migration: i64,
    epoch: i64,
    /// A partition has none.
    lacking: &'a AtomicBool,
}

impl Work for Attach<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            let step = &self.stored.step;
            store::claim_step(session, self.migration, self.epoch, self.stored.number).await?;
            // Behind the first lock nobody attaches one.
            let without = without(session, self.table.oid, self.key).await?;
            if let Some(part) = without.first() {
                self.lacking.store(true, Ordering::Relaxed);
                return Err(Error::failed(format!("{} has no such key", part.qualified())));
            }
            let others = oids(session, &step.others).await?;
            session.batch(&set_role(Some(&self.table.owner))).await?;
            let statements = vec![step.sql.clone()];
            Ok(Ready { lock: Lock::ShareRowExclusive, others, statements })
        };
        ready.boxed()
    }
}
