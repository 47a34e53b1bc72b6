//! Brings the target's rows for a set of keys to what the captured relation holds.
//!
//! A sync runs at one repeatable-read snapshot S: rows that are gone are deleted, the others
//! written, unless they are the same byte for byte. A unique value that wanders between rows may
//! clash in another unique index while the target mixes moments; then all rows of the batch are
//! deleted before they are inserted, and the keys whose rows clash all the same stay dirty, by name,
//! without a row: that frees their own old values, so the knot comes undone batch by batch. Only at a
//! point of **Invariant 6** ([`Syncer::full`]) does a clash mean that the data has duplicates.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use super::Flow;
use super::capture::{Fence, Tracker};
use super::dirty::{Batch, Remains};
use super::key::{Key, array_parameters, key_arrays};
use super::write::{Alone, Door, Isolation, Writer};
use crate::change::Course;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Lossy, Session, Snapshot};
use crate::throttle::valve::Valve;

/// Keys of one batch.
const BATCH: usize = 2000;
/// Keys of one statement within a large transaction.
pub(super) const SLICE: usize = 5000;
/// How long keys gather before they are synced. A batch costs the server several statements and a commit, however
/// few keys it has, and rows that change all the time are written once.
const GATHERING: Duration = Duration::from_millis(100);
/// How long to leave keys alone whose changes are decoded and not visible yet, or that clash.
const PAUSE: Duration = Duration::from_millis(20);

/// Plans that look keys up, whatever the statistics of a new table say.
pub(super) const PLANS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0; \
    SET plan_cache_mode = force_generic_plan";

/// How a set of keys is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Delete what is gone, write the rest where it differs; or, where the target cannot be written over by
    /// the key, delete what is gone or differs, insert what is missing.
    Upsert,
    /// Delete every row of the set, then insert: values that wander between rows do not clash.
    Replace,
    /// Delete every row of the set, then insert what fits.
    ReplaceWhatFits,
    /// Delete every row of the set. For targets with deferrable constraints, whose violations cannot
    /// be skipped.
    Clear,
}

/// What became of a batch.
enum Part {
    /// Committed this way at this snapshot, but for these keys.
    Synced(Way, Snapshot, HashSet<Key>),
    /// A passing reason: a deadlock, say.
    Disturbed,
}

/// Writes key sets of one flow in one session.
pub struct Syncer {
    pub(super) session: Session,
    pub(super) flow: Arc<Flow>,
    pub(super) writer: Writer,
    pub(super) statements: Statements,
}

/// The flow's statements, prepared in one session.
pub struct Statements {
    delete_gone: Statement,
    upsert: Statement,
    delete_all: Statement,
    insert: Statement,
    insert_what_fits: Statement,
    missing: Statement,
}

impl Statements {
    /// Prepares them, and sets the session up for their plans.
    pub async fn prepare(session: &Session, flow: &Flow) -> Result<Self> {
        session.batch(PLANS).await?;
        // A row that moves between partitions is deleted and inserted. An upsert would look for it only where it
        // belongs now, and leave the other. Both at the snapshot of one transaction, and the key in this batch
        // alone (**Invariant 4**): in between nobody writes it, and no two rows of one key can come about.
        let (delete, write) = match flow.target.upserts {
            true => (flow.sync_delete(), flow.sync_upsert()),
            false => (flow.delete_stale(), flow.insert_missing()),
        };
        // One key in two forms (1.0 and 1.00) may be in two slices: no unique index says so there.
        let (insert, what_fits) = match flow.target.upserts {
            true => (flow.insert_keys(), flow.insert_what_fits()),
            false => (flow.insert_missing(), flow.insert_missing_that_fit()),
        };
        Ok(Statements {
            delete_gone: session.prepare(&delete).await?,
            upsert: session.prepare(&write).await?,
            delete_all: session.prepare(&flow.delete_keys()).await?,
            insert: session.prepare(&insert).await?,
            insert_what_fits: session.prepare(&what_fits).await?,
            missing: session.prepare(&flow.missing_keys()).await?,
        })
    }

    /// Runs every statement on an empty set, so that each is planned and its catalogs are read.
    pub async fn warm(&self, session: &Session, flow: &Flow) -> Result<()> {
        for statement in [&self.delete_gone, &self.upsert, &self.delete_all, &self.insert] {
            let arrays = key_arrays(flow.key_type_oids(), []);
            session.run_count(statement, &array_parameters(&arrays)).await?;
        }
        Ok(())
    }

    /// Syncs `keys` in the open transaction; every deletion goes before the first insertion.
    pub(super) async fn apply(
        &self,
        session: &Session,
        flow: &Flow,
        keys: &[&Key],
        way: Way,
    ) -> Result<()> {
        let statements: &[&Statement] = match way {
            Way::Upsert => &[&self.delete_gone, &self.upsert],
            Way::Replace => &[&self.delete_all, &self.insert],
            Way::ReplaceWhatFits => &[&self.delete_all, &self.insert_what_fits],
            Way::Clear => &[&self.delete_all],
        };
        for statement in statements {
            for slice in keys.chunks(SLICE) {
                let arrays = key_arrays(flow.key_type_oids(), slice.iter().copied());
                session.run_count(statement, &array_parameters(&arrays)).await?;
            }
        }
        Ok(())
    }

    /// Which of `keys` the target should have and has not, seen from the open transaction.
    async fn missing(&self, session: &Session, flow: &Flow, keys: &[&Key]) -> Result<HashSet<Key>> {
        let mut missing = HashSet::new();
        for slice in keys.chunks(SLICE) {
            let arrays = key_arrays(flow.key_type_oids(), slice.iter().copied());
            for row in session.run(&self.missing, &array_parameters(&arrays)).await? {
                missing.insert(Key::of_row(&row, flow.key.len()));
            }
        }
        if !missing.is_empty() && !flow.is_canonical() {
            // The bytes found need not be the bytes asked for: then none counts as synced.
            missing = keys.iter().map(|key| (*key).clone()).collect();
        }
        Ok(missing)
    }

    /// Syncs `keys` in the open transaction, under a savepoint where values may wander.
    pub async fn apply_all(&self, session: &Session, flow: &Flow, keys: &[&Key]) -> Result<()> {
        session.batch("SAVEPOINT sync").await?;
        match self.apply(session, flow, keys, Way::Upsert).await {
            Err(e) if classify(&e) == Class::Duplicate => {
                session.batch("ROLLBACK TO SAVEPOINT sync").await?;
                self.apply(session, flow, keys, Way::Replace).await
            }
            other => other,
        }
    }
}

/// How a full sync ended.
pub enum Full {
    /// The target equals the captured relation as of this snapshot, and rests while the guard is
    /// held.
    Equal(Snapshot, Alone),
    /// A TRUNCATE came in between; let the truncator have the door and try again.
    Truncated,
    /// Keys had to be stored in the database meanwhile; let the sync workers catch up.
    Behind,
    /// Partitions had to be made for rows that have none; try again.
    Divided,
}

impl Syncer {
    /// `session` is used by this syncer alone.
    pub async fn new(session: Session, flow: Arc<Flow>, writer: Writer) -> Result<Self> {
        let statements = Statements::prepare(&session, &flow).await?;
        Ok(Syncer { session, flow, writer, statements })
    }

    /// The worker `number`, from 0: syncs batch after batch until `stop`, as fast as `valve` lets it. Tells how
    /// long each took to `report`.
    pub async fn work(
        &self,
        tracker: &Tracker,
        door: &Door,
        (valve, number): (&Valve, usize),
        stop: CancellationToken,
        report: impl Fn(Duration),
    ) -> Result<()> {
        let mut arrivals = tracker.arrivals();
        let mut worked = Duration::ZERO;
        let mut began = Instant::now();
        while !stop.is_cancelled() {
            tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                _ = gathering(tracker, &mut arrivals, began) => {}
            }
            // Before the door and the keys: nobody waits for one who rests.
            let _there = tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                there = valve.pass(number, worked) => there,
            };
            worked = Duration::ZERO;
            arrivals.borrow_and_update();
            let shared = tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                shared = door.share() => shared,
            };
            let turn = tracker.turn().await;
            let batch = tracker.dirty().select((BATCH as f64 * valve.share()) as usize);
            if batch.is_empty() {
                drop((turn, shared));
                // A batch given back without an arrival is found by the timeout.
                let _ = timeout(Duration::from_millis(100), arrivals.changed()).await;
                continue;
            }
            began = Instant::now();
            let cleared = self.sync(tracker, batch).await?;
            worked = began.elapsed();
            report(worked);
            drop((turn, shared));
            if cleared == 0 {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Syncs one batch; keys that clash stay dirty. Returns how many keys were cleared.
    async fn sync(&self, tracker: &Tracker, batch: Batch) -> Result<usize> {
        match self.sync_batch(tracker, &batch).await? {
            Part::Synced(way, snapshot, unsynced) => {
                let cleared = tracker.dirty().finish_but(batch, &snapshot, &unsynced);
                tracker.freed.notify_one();
                // A batch that was cleared because of one row comes in only by an upsert.
                tracker.expect_clash(!unsynced.is_empty() && way != Way::Clear);
                if cleared == 0 && !unsynced.is_empty() {
                    // What they wait for may be stored, or in the stream behind a full memory.
                    tracker.clashed();
                } else if tracker.dirty().on_disk() > 0 {
                    // Stored keys have room now.
                    tracker.announce();
                }
                Ok(cleared)
            }
            Part::Disturbed => {
                tracker.dirty().abandon(batch);
                Ok(0)
            }
        }
    }

    async fn sync_batch(&self, tracker: &Tracker, batch: &Batch) -> Result<Part> {
        // Where the last batch clashed, this one most likely would: an upsert in vain costs as much.
        let skipped = usize::from(tracker.expects_clash());
        for way in [Way::Upsert, Way::ReplaceWhatFits, Way::Clear].into_iter().skip(skipped) {
            let error = match self.try_sync(batch, way).await {
                Ok((snapshot, unsynced)) => return Ok(Part::Synced(way, snapshot, unsynced)),
                Err(e) if self.session.is_closed() => return Err(e),
                Err(e) => e,
            };
            self.session.rollback().await;
            if self.flow.lacks_room(&error) {
                self.make_room(&batch.keys().collect::<Vec<_>>()).await?;
                // At a new snapshot, whether it was made or not.
                return Ok(Part::Disturbed);
            }
            match classify(&error) {
                Class::Duplicate => tracker.values_wander(),
                Class::Transient => {
                    // A deadlock with another batch, over a unique value.
                    tracker.values_wander();
                    return Ok(Part::Disturbed);
                }
                Class::RowsDoNotFit => return Err(self.rows_do_not_fit(batch, error).await),
                _ if way == Way::ReplaceWhatFits && has_deferrable_arbiter(&error) => {}
                _ => return Err(error.context("applying changes")),
            }
        }
        Ok(Part::Disturbed)
    }

    async fn try_sync(&self, batch: &Batch, way: Way) -> Result<(Snapshot, HashSet<Key>)> {
        let keys: Vec<&Key> = batch.keys().collect();
        let snapshot = self.writer.begin(&self.session, Isolation::RepeatableRead).await?;
        self.writer.as_owner(&self.session).await?;
        self.statements.apply(&self.session, &self.flow, &keys, way).await?;
        let unsynced = match way {
            Way::Upsert | Way::Replace => HashSet::new(),
            Way::ReplaceWhatFits | Way::Clear => {
                self.statements.missing(&self.session, &self.flow, &keys).await?
            }
        };
        self.settle(batch, &snapshot, &unsynced).await?;
        failpoint!("batch synced");
        self.session.batch("COMMIT").await?;
        failpoint!("batch committed");
        Ok((snapshot, unsynced))
    }

    /// Deletes the stored rows that this sync makes superfluous, in its transaction.
    async fn settle(
        &self,
        batch: &Batch,
        snapshot: &Snapshot,
        unsynced: &HashSet<Key>,
    ) -> Result<()> {
        self.writer.as_tool(&self.session).await?;
        let rows = batch.settled_rows(snapshot, unsynced);
        if !rows.is_empty() {
            let sql = "DELETE FROM pgwraith.dirty WHERE id = ANY($1)";
            self.session.execute(sql, &[&rows]).await?;
        }
        Ok(())
    }

    /// **Invariant 6**, exactly the source at S: every other writer is out of the door; S is taken;
    /// a fence written after S returns, so every change that S sees has been marked; then all dirty
    /// keys are synced at S. What S does not see stays dirty.
    ///
    /// A violation of a unique index here is one of the data: `DataDiffers`.
    pub async fn full(&self, tracker: &Tracker, door: &Door, fence: &Fence) -> Result<Full> {
        let _together = tracker.keep_together();
        let alone = door.alone().await;
        let snapshot = self.writer.begin(&self.session, Isolation::RepeatableRead).await?;
        // The caller passed a fence just now, so this one is fast; where it is not, S would grow old.
        if let Err(e) = fence.pass(SNAPSHOT_FENCE_LIMIT).await {
            tracing::debug!("full sync: {e}");
            self.session.rollback().await;
            return Ok(Full::Behind);
        }
        let selected = tracker.dirty().select_all();
        if selected.is_err() {
            self.session.rollback().await;
        }
        let batch = match selected {
            Ok(batch) => batch,
            Err(Remains::Stored) => return Ok(Full::Behind),
            Err(Remains::Truncate) => return Ok(Full::Truncated),
        };
        let keys: Vec<&Key> = batch.keys().collect();
        self.writer.as_owner(&self.session).await?;
        let applied = async {
            self.statements.apply_all(&self.session, &self.flow, &keys).await?;
            // A constraint that is looked at by COMMIT alone would say so too late to be understood.
            self.session.batch("SET CONSTRAINTS ALL IMMEDIATE").await
        };
        if let Err(e) = applied.await {
            self.session.rollback().await;
            if self.flow.lacks_room(&e) {
                let made = self.make_room(&keys).await;
                tracker.dirty().abandon(batch);
                return made.map(|_| Full::Divided);
            }
            let error = match classify(&e) {
                Class::Duplicate => self.duplicate(&keys, e).await,
                Class::RowsDoNotFit => self.rows_do_not_fit(&batch, e).await,
                _ => e.context("applying all changes at one snapshot"),
            };
            tracker.dirty().abandon(batch);
            return Err(error);
        }
        self.settle(&batch, &snapshot, &HashSet::new()).await?;
        self.session.batch("COMMIT").await?;
        tracker.dirty().finish(batch, &snapshot);
        failpoint!("full sync committed");
        tracker.freed.notify_one();
        Ok(Full::Equal(snapshot, alone))
    }

    /// Makes partitions for the rows of these keys; false where that is to be asked for again.
    async fn make_room(&self, keys: &[&Key]) -> Result<bool> {
        match self.flow.make_room_for_keys(keys).await {
            Err(e) if e.kind() == Kind::DataDiffers => Err(self.do_not_fit(keys, e).await),
            made => made,
        }
    }

    async fn rows_do_not_fit(&self, batch: &Batch, error: Error) -> Error {
        self.do_not_fit(&batch.keys().collect::<Vec<_>>(), error).await
    }

    async fn do_not_fit(&self, keys: &[&Key], error: Error) -> Error {
        let culprit = match self.culprit(keys).await {
            Some(key) => format!("the row with key {key}"),
            None => String::from("a row"),
        };
        Error::new(
            Kind::DataDiffers,
            format!("{culprit} does not fit the new table. {}", error.what()),
        )
        .next(self.flow.target.mend_of(&error))
    }

    /// Tries the keys one by one; the first that does not fit, as text.
    async fn culprit(&self, keys: &[&Key]) -> Option<String> {
        for key in keys {
            let tried = self.try_one(key).await;
            self.session.rollback().await;
            if tried.is_err_and(|e| classify(&e) == Class::RowsDoNotFit) {
                return self.describe(key).await.ok();
            }
        }
        None
    }

    async fn try_one(&self, key: &Key) -> Result<()> {
        self.writer.begin(&self.session, Isolation::ReadCommitted).await?;
        self.writer.as_owner(&self.session).await?;
        self.statements.apply(&self.session, &self.flow, &[key], Way::Upsert).await
    }

    async fn describe(&self, key: &Key) -> Result<String> {
        describe_key(&self.session, &self.flow, key).await
    }
}

/// Until keys have gathered since then, or somebody waits for their syncs.
async fn gathering(tracker: &Tracker, arrivals: &mut watch::Receiver<u64>, since: Instant) {
    let pressed = async { while !tracker.presses(BATCH) && arrivals.changed().await.is_ok() {} };
    let _ = timeout(GATHERING.saturating_sub(since.elapsed()), pressed).await;
}

/// A fence that a snapshot of ours waits for may take so long.
pub(super) const SNAPSHOT_FENCE_LIMIT: Duration = Duration::from_secs(15);

/// A fence that takes longer than this means that decoding is in trouble.
pub const FENCE_LIMIT: Duration = Duration::from_secs(300);

/// The key as `column = value, …`.
pub async fn describe_key(session: &Session, flow: &Flow, key: &Key) -> Result<String> {
    let raws: Vec<crate::pg::Raw> =
        key.columns().map(|c| crate::pg::Raw(bytes::Bytes::copy_from_slice(c))).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        raws.iter().map(|r| r as &(dyn ToSql + Sync)).collect();
    let text: Vec<Lossy> =
        session.one(&Flow::bound_text(&Course::of_key(&flow.key)), &parameters).await?.get(0);
    let named = flow.key.iter().zip(text).map(|(k, v)| format!("{} = {v}", k.source));
    Ok(named.collect::<Vec<_>>().join(", "))
}

/// Whether `ON CONFLICT DO NOTHING` was refused because of a deferrable constraint.
pub(super) fn has_deferrable_arbiter(error: &Error) -> bool {
    error.sqlstate() == Some("55000")
}
