//! Takes partitions in that come to the source while a run lasts, in a session of its own: those may bring as many rows
//! as the table has, and whoever watches it has to look all the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::store;
use super::supervisor::Supervisor;
use super::watch::{self, suits};
use crate::catalog::{self, Baseline, Fingerprint, FingerprintReader};
use crate::error::{Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::Flow;
use crate::flow::capture::Tracker;
use crate::flow::newcomer::{self, Newcomer};
use crate::pg::sqlstate::UNDEFINED_TABLE;
use crate::pg::{QualifiedName, Session};
use crate::throttle::valve::Valve;

/// Who takes them in.
pub(super) struct Newcomers {
    pub(super) session: Session,
    pub(super) flow: Arc<Flow>,
    pub(super) epoch: i64,
    pub(super) baseline: Arc<Baseline>,
    /// Told of what is found dirty.
    pub(super) tracker: Arc<Tracker>,
    pub(super) valve: Valve,
    /// The new table is divided as the source is, and needs a partition for each of the source's.
    pub(super) divided_alike: bool,
    /// Some were seen.
    pub(super) came: Arc<Notify>,
    pub(super) supervisor: Supervisor,
    /// How those were attached that had come when the first keys were stored, where some are.
    pub(super) begun: HashMap<u32, String>,
}

impl Newcomers {
    /// Works until `end`; stops the run where one cannot be followed.
    pub(super) async fn run(mut self, end: CancellationToken) -> Result<()> {
        newcomer::prepare(&self.session).await?;
        let reader = FingerprintReader::prepare(&self.session).await?;
        let work = async {
            loop {
                self.came.notified().await;
                match self.take_in(&reader).await {
                    Ok(()) => {}
                    // Dropped or renamed since it was looked up: the next look tells which.
                    Err(e) if e.sqlstate() == Some(UNDEFINED_TABLE) => {
                        self.session.rollback().await
                    }
                    Err(e) => {
                        self.session.rollback().await;
                        return e;
                    }
                }
            }
        };
        let error = tokio::select! {
            _ = end.cancelled() => return Ok(()),
            error = work => error,
        };
        if error.kind() != Kind::NotResumable {
            return Err(error);
        }
        watch::give_up(&self.session, &self.flow, &self.supervisor, error).await
    }

    /// Partitions came. What was in them is dirty from here on. Only when all of it is stored does the state get the
    /// fingerprint that knows them: whoever resumes before that finds them new.
    async fn take_in(&mut self, reader: &FingerprintReader) -> Result<()> {
        let first = self.look(reader).await?;
        let came = self.baseline.new_partitions(&first);
        if self.begun.iter().any(|(oid, place)| first.partition(*oid) != Some(place.as_str())) {
            return Err(newcomer::came_and_went(&self.flow));
        }
        for &oid in &came {
            if let Some(leaf) = self.leaf(oid).await?
                && !self.store(leaf, oid, (&first, &came)).await?
            {
                return Ok(());
            }
        }
        if came.is_empty() { Ok(()) } else { self.know(reader, &first, &came).await }
    }

    async fn look(&self, reader: &FingerprintReader) -> Result<Fingerprint> {
        let (session, flow) = (&self.session, &self.flow);
        let now = reader.read(session, flow.watched()).await?;
        self.baseline.check(&now, &flow.captured.name.to_string())?;
        Ok(now)
    }

    /// The new partition of that number, whose rows can be followed; None where it has none of its own, or is gone again.
    async fn leaf(&self, oid: u32) -> Result<Option<QualifiedName>> {
        let root = self.flow.captured.oid;
        let Some(leaf) = catalog::new_leaf(&self.session, root, oid).await? else {
            return Ok(None);
        };
        suits(&self.flow, &leaf, self.divided_alike)?;
        Ok(Some(leaf.qualified()))
    }

    /// Page by page, as fast as the copy may go. False where somebody took the migration over, who finds it new.
    async fn store(
        &mut self,
        leaf: QualifiedName,
        oid: u32,
        (first, came): (&Fingerprint, &[u32]),
    ) -> Result<bool> {
        let (session, migration) = (&self.session, self.flow.migration);
        let mut newcomer = Newcomer::new(&self.flow, leaf);
        let mut worked = Duration::ZERO;
        while !newcomer.is_done() {
            let _there = self.valve.pass(0, worked).await;
            let _turn = self.tracker.numbers_rows().await;
            let began = Instant::now();
            if !store::hold_epoch(session, migration, self.epoch).await? {
                return Ok(false);
            }
            let stored = newcomer.store(session, self.valve.share()).await?;
            if stored > 0 {
                // Before that, it did not matter.
                let places = came.iter().filter_map(|oid| Some((*oid, first.partition(*oid)?)));
                for (oid, place) in places {
                    self.begun.entry(oid).or_insert_with(|| place.to_owned());
                }
                self.tracker.tell_of(oid);
            }
            newcomer::commit(session, &self.tracker, stored).await?;
            worked = began.elapsed();
        }
        Ok(true)
    }

    /// They are as all others from here on, if they have been partitions all the while. If not, they are looked at once
    /// more; those that came since are anyway.
    async fn know(
        &mut self,
        reader: &FingerprintReader,
        first: &Fingerprint,
        came: &[u32],
    ) -> Result<()> {
        let (session, flow) = (&self.session, &self.flow);
        if !store::hold_epoch(session, flow.migration, self.epoch).await? {
            return Ok(());
        }
        let now = self.look(reader).await?;
        if came.iter().any(|oid| now.partition(*oid) != first.partition(*oid)) {
            session.rollback().await;
            self.came.notify_one();
            return Ok(());
        }
        // After that look: what becomes of them since is a difference from it.
        for &oid in came {
            self.leaf(oid).await?;
        }
        let mut late = self.baseline.new_partitions(&now);
        late.retain(|oid| !came.contains(oid));
        let known = now.not_knowing(&late);
        store::keep_fingerprint(session, flow, &self.baseline.with_partitions_of(&known)).await?;
        failpoint!("newcomer known");
        session.batch("COMMIT").await?;
        self.baseline.take_in(&known);
        self.begun.clear();
        Ok(())
    }
}
