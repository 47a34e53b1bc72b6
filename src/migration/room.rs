//! Partitions for rows that have none, where there is to be no default one: made on the shadow while the run lasts.
//!
//! A new partition is made and dressed as an ordinary table, with the indexes that the root has by now, and attached:
//! that asks for SHARE UPDATE EXCLUSIVE on the root, which neither the other workers nor a comparison have to make way
//! for, and finds no row to look at. CREATE TABLE … PARTITION OF would keep all of them out. In the same transaction the
//! state gets it (`pgwraith.flow.partitions`): whoever resumes knows every partition, or it is not there.
//!
//! Since the cutover's first lock is the same one on the root, no partition comes between what it works out and its
//! COMMIT. Who waits for that holds the door, which the cutover may be waiting for: so never for long.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::begun::Known;
use super::prepare::{self, leaf_settings};
use super::store;
use crate::catalog::{self, Table};
use crate::change::partition::missing::{Divides, Rows};
use crate::change::partition::{Asked, Partition, Partitioning};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::Flow;
use crate::flow::room::{MakesRoom, Room};
use crate::flow::write::{Isolation, Writer};
use crate::pg::{Connector, Session, quote_literal};
use crate::shadow::{self, Names, Step, TemporaryNames};
use crate::telemetry::Meter;

/// A lock on the shadow may take so long; then whoever asked gives the door back, and asks again.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes them, for one table.
struct Maker {
    connector: Connector,
    writer: Writer,
    asked: Asked,
    source: Table,
    target: Table,
    partitioning: Partitioning,
    names: Names,
    meter: Meter,
    /// One asks at a time: the next one finds what the first one made.
    turn: Mutex<()>,
}

/// Who makes partitions of the table of a migration; nobody where its default partition takes what comes, or where
/// they are somebody else's.
pub(super) fn of(connector: &Connector, writer: &Writer, known: &Known, meter: &Meter) -> Room {
    let asked = known.request.partition.as_ref().filter(|asked| asked.has_no_default());
    let (Some(asked), Some(partitioning)) = (asked, &known.partitioning) else {
        return Room::default();
    };
    Room::by(std::sync::Arc::new(Maker {
        connector: connector.clone(),
        writer: writer.clone(),
        asked: asked.clone(),
        source: known.source.clone(),
        target: known.target.clone(),
        partitioning: partitioning.clone(),
        names: known.names.clone(),
        meter: meter.clone(),
        turn: Mutex::new(()),
    }))
}

impl MakesRoom for Maker {
    fn make_room<'a>(&'a self, flow: &'a Flow, rows: Rows<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.make(flow, rows))
    }
}

impl Maker {
    async fn make(&self, flow: &Flow, rows: Rows<'_>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let session = self.connector.session(&format!("{}/partitions", flow.migration)).await?;
        self.writer.begin(&session, Isolation::ReadCommitted).await?;
        let made = match self.made(&session, flow, rows).await {
            Ok(made) if !made.is_empty() => made,
            other => {
                session.rollback().await;
                return other.map(drop);
            }
        };
        failpoint!("partition made");
        session.batch("COMMIT").await?;
        failpoint!("partition committed");
        let names: Vec<&str> = made.iter().map(|partition| partition.name.as_str()).collect();
        self.meter.note(format!("rows came that had no partition: made {}", names.join(", ")));
        self.partitioning.partitions.add(made);
        Ok(())
    }

    /// Makes what is missing, in the open transaction.
    async fn made(&self, session: &Session, flow: &Flow, rows: Rows<'_>) -> Result<Vec<Partition>> {
        let root = &flow.target.root;
        self.writer.as_owner(session).await?;
        let divides = Divides {
            asked: &self.asked,
            partitioning: &self.partitioning,
            projection: &flow.projection,
            source: &self.source,
            names: &self.names,
        };
        let missing = divides.missing(session, root, rows).await?;
        if missing.is_empty() {
            return Ok(missing);
        }
        let limit = LOCK_TIMEOUT.as_millis();
        let lock = format!(
            "SET LOCAL lock_timeout = {limit}; LOCK TABLE ONLY {root} IN SHARE UPDATE EXCLUSIVE MODE"
        );
        session.batch(&lock).await?;
        self.writer.as_tool(session).await?;
        let now = catalog::read_named(session, root).await?;
        let now = now.ok_or_else(|| Error::failed(format!("the shadow {root} is gone")))?;
        let mut all = self.partitioning.partitions.all();
        let before = all.len();
        all.extend(missing.iter().cloned());
        let tables = self.partitioning.tables_of(&all, root);
        for (table, partition) in tables.iter().zip(&all).skip(before) {
            self.make_one(session, &now, table, &partition.bound).await?;
        }
        store::keep_partitions(session, flow, &all).await?;
        Ok(missing)
    }

    /// One partition, as those are that were made before the copy.
    async fn make_one(
        &self,
        session: &Session,
        root: &Table,
        table: &Table,
        bound: &str,
    ) -> Result<()> {
        let owner = &self.target.owner;
        let name = table.qualified();
        let by_owner = |sql: Vec<String>| -> Vec<Step> {
            sql.into_iter().map(|sql| Step::by(owner, sql)).collect()
        };
        prepare::run(session, &by_owner(vec![shadow::create_table(&as_partition(table), &name)]))
            .await?;
        prepare::run(session, &by_owner(self.indexes(root, table))).await?;
        let before = leaf_settings(session, table).await?;
        prepare::keep_others_out(session, owner, &before).await?;
        // With its indexes there, they become parts of the root's.
        let attach = shadow::attach_partition(&root.qualified(), &name, bound);
        prepare::run(session, &by_owner(vec![attach])).await?;
        let now = prepare::read_partition(session, table).await?;
        let identity = shadow::replica_identity(table, &name, str::to_owned).filter(|_| {
            // Its index may not be there yet; then it comes with those of the other partitions.
            let wanted = table.indexes.iter().find(|index| index.replica_identity);
            wanted.is_none_or(|wanted| now.indexes.iter().any(|index| index.name == wanted.name))
        });
        prepare::run(session, &by_owner(identity.into_iter().collect())).await
    }

    /// Those that the root has by now.
    fn indexes(&self, root: &Table, table: &Table) -> Vec<String> {
        let names = TemporaryNames::of(&self.target);
        let is_there = |oid: u32| {
            let of_root = self.target.indexes.iter().find(|index| index.oid == oid);
            let name = of_root.map(|index| names.until_swap(&index.name));
            name.is_some_and(|name| root.indexes.iter().any(|index| index.name == name))
        };
        let plans = shadow::index_plans(table, &table.qualified(), str::to_owned);
        let mut sql = Vec::new();
        for plan in plans.into_iter().filter(|plan| is_there(plan.index.oid)) {
            let tablespace = plan.index.tablespace.as_deref().unwrap_or("");
            sql.push(format!("SET LOCAL default_tablespace = {}", quote_literal(tablespace)));
            sql.push(plan.create);
            sql.extend(plan.attach);
        }
        sql.push("SET LOCAL default_tablespace = ''".to_owned());
        sql
    }
}

/// As CREATE TABLE makes it in place of PARTITION OF: values of an identity column are the root's to give.
fn as_partition(table: &Table) -> Table {
    let mut table = table.clone();
    for column in &mut table.columns {
        column.identity.clear();
    }
    table
}
