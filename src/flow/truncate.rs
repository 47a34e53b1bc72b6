//! Follows TRUNCATEs of the captured relation: **Invariant 4**'s barrier.
//!
//! From its decoding on nothing is selected or cleared. It is stored like a dirty key; then, with
//! every other writer out of the door, the target is truncated; where only a partition of the captured relation may have
//! been, what is no longer there is deleted. Keys marked since its decoding stay
//! dirty, since nothing was cleared in between, and whatever was read before it is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Flow;
use super::capture::Tracker;
use super::dirty::Barrier;
use super::write::{Door, Isolation, Writer};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::pg::{QualifiedName, Session, Snapshot};

/// How often to ask whether a commit has become visible.
const POLL: Duration = Duration::from_millis(20);

/// Truncates the target whenever the captured relation was.
pub struct Truncator {
    /// Used by the truncator alone.
    pub session: Session,
    pub flow: Arc<Flow>,
    pub writer: Writer,
    pub tracker: Arc<Tracker>,
    pub door: Door,
}

impl Truncator {
    /// Works until `stop`.
    pub async fn follow(self, stop: CancellationToken) -> Result<()> {
        let mut arrivals = self.tracker.arrivals();
        loop {
            let barrier = self.tracker.dirty().barrier();
            tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                done = self.pass(barrier), if barrier.is_some() => done?,
                _ = arrivals.changed(), if barrier.is_none() => {}
            }
        }
    }

    async fn pass(&self, barrier: Option<Barrier>) -> Result<()> {
        let Some(barrier) = barrier else { return Ok(()) };
        self.store(barrier).await?;
        failpoint!("truncate stored");
        self.tracker.dirty().barrier_stored(barrier);
        let _alone = self.door.alone().await;
        self.wait_until_visible(barrier.xid).await?;
        self.truncate(barrier).await?;
        failpoint!("truncate followed");
        self.tracker.dirty().truncated(barrier);
        self.tracker.announce();
        Ok(())
    }

    async fn store(&self, barrier: Barrier) -> Result<()> {
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        let sql = "INSERT INTO pgwraith.dirty (migration_id, flow, kind, key, xid) \
                   VALUES ($1, $2, 'truncate', '', $3::pg_catalog.text::pg_catalog.xid8)";
        let (flow, xid) = (&self.flow, barrier.xid.to_string());
        self.session.execute(sql, &[&flow.migration, &flow.number, &xid]).await?;
        self.session.batch("COMMIT").await
    }

    /// A TRUNCATE may be decoded before it is visible (its backend waits for a synchronous
    /// standby): until it has ended, what is read of the relation waits for its lock.
    async fn wait_until_visible(&self, xid: u64) -> Result<()> {
        loop {
            let sql = "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text";
            let text: String = self.session.one(sql, &[]).await?.get(0);
            if text.parse::<Snapshot>().map_err(Error::failed)?.sees(xid) {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }

    /// Of a partitioned relation it may have been one partition, or rows may have come again. Asked when the
    /// TRUNCATE is visible: in a relation without rows there was none that it left, and what comes is told by the
    /// stream.
    async fn goes_partly(&self) -> Result<bool> {
        let partitioned = self.flow.captured.is_partitioned;
        Ok(partitioned && self.session.one(&self.flow.has_rows(), &[]).await?.get(0))
    }

    async fn delete_all(&self) -> Result<()> {
        for relation in &self.flow.target.relations() {
            if self.is_there(relation).await? {
                self.session.batch(&format!("TRUNCATE ONLY {relation}")).await?;
            }
        }
        Ok(())
    }

    /// A row whose key is not in the captured relation is to go, whatever took it away; one whose key is there again
    /// has been told by the stream, and is dirty.
    async fn delete_absent(&self) -> Result<()> {
        if self.is_there(&self.flow.target.root).await? {
            self.session.execute(&self.flow.delete_absent(), &[]).await?;
        }
        Ok(())
    }

    /// Before it is made it has no rows, and none will come that were there before.
    async fn is_there(&self, relation: &QualifiedName) -> Result<bool> {
        let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
        Ok(self.session.one(there, &[&relation.to_string()]).await?.get(0))
    }

    async fn truncate(&self, barrier: Barrier) -> Result<()> {
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        self.writer.as_owner(&self.session).await?;
        match self.goes_partly().await? {
            true => self.delete_absent().await?,
            false => self.delete_all().await?,
        }
        self.writer.as_tool(&self.session).await?;
        let sql = "DELETE FROM pgwraith.dirty WHERE migration_id = $1 AND flow = $2 \
                   AND kind = 'truncate' AND xid <= $3::pg_catalog.text::pg_catalog.xid8";
        let (flow, xid) = (&self.flow, barrier.xid.to_string());
        self.session.execute(sql, &[&flow.migration, &flow.number, &xid]).await?;
        failpoint!("truncate ready");
        self.session.batch("COMMIT").await
    }
}
