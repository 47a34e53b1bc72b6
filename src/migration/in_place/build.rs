//! Builds an index CONCURRENTLY. A build that fails, or is cut off, leaves an invalid index, which may refuse rows
//! and helps no query: it is dropped before the next one, and whatever became of a build nobody heard of again is
//! looked up in the catalogs.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::violating;
use super::work::{Did, Steps};
use crate::catalog::{self, Index, Table};
use crate::change::trial::{Does, Lock};
use crate::cutover::{Ready, Work};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::write::Isolation;
use crate::migration::index;
use crate::migration::store::{self, StoredStep};
use crate::pg::{GivesWay, Ran, Session};
use crate::shadow::set_role;

impl Steps<'_, '_, '_> {
    pub(super) async fn build(&self, stored: &StoredStep) -> Result<Did> {
        let (name, definition, unique) = match &stored.step.does {
            Does::BuildIndex { name, definition, unique } => (name, definition, unique),
            Does::BuildPart { part, key } => return self.build_part(stored, *part, key).await,
            _ => return Ok(Did::default()),
        };
        let is_it = |index: &Index| {
            index.valid && index.definition == *definition && index.unique == *unique
        };
        match self.index(name).await? {
            Some(index) if is_it(&index) => self.settle(stored).await?,
            Some(index) if index.valid => {
                let what = format!("somebody made another index {name:?} meanwhile");
                return Err(Error::failed(what).next("Rename or drop it"));
            }
            there => {
                if there.is_some() {
                    self.drop_invalid(self.source, name).await?;
                }
                self.create(&stored.step.sql, self.source, name).await?;
                failpoint!("index made");
                self.settle(stored).await?;
            }
        }
        Ok(Did::default())
    }

    async fn index(&self, name: &str) -> Result<Option<Index>> {
        let now = catalog::read(self.control, self.source.oid).await?;
        let now = now.ok_or_else(|| Error::failed("the table is gone"))?;
        Ok(now.indexes.into_iter().find(|index| index.name == name))
    }

    /// It waits for every snapshot of the database that is older than it, of which none is ours.
    pub(super) async fn create(&self, sql: &str, table: &Table, name: &str) -> Result<()> {
        let context = self.context;
        let settings = context.settings.borrow().index.clone();
        // It can be in no transaction of ours: Invariant 9 is asked just before.
        context.writer.begin(self.control, Isolation::ReadCommitted).await?;
        self.control.batch("COMMIT").await?;
        let session = index::builder(context, &settings, 0).await?;
        session.set_role(&context.writer.owner).await?;
        // As the operator's own session would understand it.
        let watcher = context.session("index watch").await?;
        let _unthrottled = context.unthrottled.begin();
        let mut ways = GivesWay::new(format!("building index {name:?}"));
        let error = loop {
            let build = async {
                tokio::select! {
                    built = session.batch(sql) => built,
                    never = index::tell_waits(context, &watcher, session.pid(), name) => match never {},
                }
            };
            match ways.run(&watcher, session.pid(), build).await {
                Ok(Ran::Done(())) => return Ok(()),
                Ok(Ran::GaveWay(why)) => {
                    context.meter.note(why);
                    self.drop_invalid(table, name).await?;
                }
                Err(e) if session.is_closed() => return Err(e),
                Err(e) => break e,
            }
        };
        let error = match index::is_of_the_data(&error) {
            true => violating::duplicates(self, table.oid, name, error).await,
            false => error.context(format!("building index {name:?}")),
        };
        // It may refuse rows that the table takes. Where it cannot go now, it does before the next build.
        if let Err(e) = self.drop_invalid(table, name).await {
            context.meter.note(format!("the invalid index {name:?} is left: {}", e.what()));
        }
        Err(error)
    }

    pub(super) async fn drop_invalid(&self, table: &Table, name: &str) -> Result<()> {
        let context = self.context;
        let migration = context.flow.migration;
        let work = DropInvalid { table, name, migration, epoch: context.writer.epoch };
        self.under_lock_of(table, &work, &|| None).await?;
        context.meter.note(format!("the invalid index {name:?} is dropped"));
        Ok(())
    }
}

/// Behind the first lock nobody builds it, or builds it anew: an index that is invalid there stays so.
struct DropInvalid<'a> {
    table: &'a Table,
    name: &'a str,
    migration: i64,
    epoch: i64,
}

impl Work for DropInvalid<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            store::still_mine(session, self.migration, self.epoch).await?;
            let now = catalog::read(session, self.table.oid).await?;
            let invalid = |index: &&Index| index.name == self.name && !index.valid;
            let there = now.as_ref().is_some_and(|now| now.indexes.iter().any(|i| invalid(&i)));
            session.batch(&set_role(Some(&self.table.owner))).await?;
            let drop = || format!("DROP INDEX {}", self.table.qualified().sibling(self.name));
            Ok(Ready {
                lock: if there { Lock::AccessExclusive } else { Lock::AccessShare },
                others: Vec::new(),
                statements: there.then(drop).into_iter().collect(),
            })
        };
        ready.boxed()
    }
}
