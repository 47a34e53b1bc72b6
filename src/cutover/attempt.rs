//! One attempt: from the first LOCK to COMMIT, or ROLLBACK.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::deadline::Deadline;
use super::locker::{Locker, late, new_partitions, watch};
use super::look::{self, Obstacle};
use super::take::{self, NotTaken};
use super::{Cutover, Limits, Steps, outcome};
use crate::catalog::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::dirty::Batch;
use crate::flow::key::Key;
use crate::flow::newcomer;
use crate::flow::write::Alone;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, quote_literal};
use crate::telemetry::Timed;

/// Under the first lock changed keys have so long to become few.
const DRAINED: Duration = Duration::from_secs(2);
/// And so often it is looked whether somebody waits for it.
const LOOK: Duration = Duration::from_millis(100);

/// How an attempt ended.
pub(super) enum Tried {
    /// Nobody may write by the old names any more: the door stays shut until the workers are gone.
    Swapped { lock_held: Duration, stall: Duration, steps: Steps, shut: Alone },
    /// Rolled back; the application goes on with the old table.
    Late(Obstacle),
    /// Rolled back too. Somebody may have changed what a statement is about: only the same error again
    /// says that it will not pass.
    Failed(Error),
}

/// One attempt of `locker`.
pub(super) struct Attempt<'a> {
    cutover: &'a Cutover<'a>,
    observer: &'a Session,
    locker: &'a Locker,
    /// As they were when it began.
    limits: Limits,
    /// Keys to compare besides those of the final sync.
    open: &'a HashSet<Key>,
    sequences_first: bool,
    deadline: Deadline,
    started: Instant,
    granted: Option<Instant>,
    steps: Steps,
    batch: Option<Batch>,
}

impl<'a> Attempt<'a> {
    /// `Err` only for what further attempts cannot cure.
    pub(super) async fn make(
        cutover: &'a Cutover<'a>,
        observer: &'a Session,
        locker: &Locker,
        open: &'a HashSet<Key>,
        number: u32,
    ) -> Result<Tried> {
        locker.warm(cutover, observer).await?;
        let _together = cutover.tracker.keep_together();
        let alone = match alone_with_few(cutover, observer, locker).await? {
            Ok(alone) => alone,
            Err(obstacle) => {
                locker.session.rollback().await;
                return Ok(Tried::Late(obstacle));
            }
        };
        // Nobody makes partitions while we are alone in here; but until then somebody may have, and what was worked out is
        // about those that there were. (Behind the first lock none can be made; it may have been in the catalogs by
        // then, and told a moment later.)
        if cutover.flow.target.leaves().len() != locker.rehearsed.leaves {
            locker.session.rollback().await;
            return Ok(Tried::Late(Obstacle::new("a partition was made just now")));
        }
        let limits = (cutover.limits)();
        let mut attempt = Attempt {
            cutover,
            observer,
            locker,
            limits,
            open,
            sequences_first: number.is_multiple_of(2),
            deadline: Deadline::after(limits.max_lock_hold),
            started: Instant::now(),
            granted: None,
            steps: Steps::default(),
            batch: None,
        };
        failpoint!("cutover ready");
        let done = attempt.under_lock().await;
        let Attempt { started, granted, batch, steps, .. } = attempt;
        let Err(stop) = done else {
            let lock_held = granted.unwrap_or(started).elapsed();
            let stall = started.elapsed();
            cutover.meter.took(Timed::Stall, stall);
            return Ok(Tried::Swapped { lock_held, stall, steps, shut: alone });
        };
        // The lock goes at once, the session soon afterwards.
        locker.session.rollback().await;
        cutover.meter.took(Timed::Stall, started.elapsed());
        if let Some(batch) = batch {
            cutover.tracker.dirty().abandon(batch);
        }
        drop(alone);
        match stop {
            Stop::Late(obstacle) => Ok(Tried::Late(obstacle)),
            Stop::Unsure(e) => Ok(Tried::Failed(e)),
            Stop::Definite(e) => Err(e),
        }
    }

    async fn under_lock(&mut self) -> Result<(), Stop> {
        self.lock().await?;
        failpoint!("cutover locked");
        let locked = Instant::now();
        // Everything the application committed is in the log before the fence. The look needs the
        // lock, not the fence: what it sees can change no more, or only in the log behind the
        // application's last change.
        let ((), seen) = tokio::try_join!(self.pass_fence(), self.look_again())?;
        self.nothing_came_and_went(&seen)?;
        let looked = Instant::now();
        let Ok(all) = self.cutover.tracker.dirty().select_all() else {
            return Err(Stop::late("changes arrived that cannot be applied in time"));
        };
        self.batch = Some(all);
        self.final_sync().await?;
        let synced = Instant::now();
        self.rename().await?;
        failpoint!("cutover renamed");
        let renamed = Instant::now();
        self.commit().await?;
        failpoint!("cutover committed");
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1000.0;
        self.steps = Steps {
            lock_ms: ms(self.started, locked),
            look_ms: ms(locked, looked),
            sync_ms: ms(looked, synced),
            rename_ms: ms(synced, renamed),
            commit_ms: ms(renamed, Instant::now()),
        };
        Ok(())
    }

    async fn lock(&mut self) -> Result<(), Stop> {
        let (cutover, locker) = (self.cutover, self.locker);
        let limits = (self.limits, self.sequences_first);
        let taken = take::take(cutover, self.observer, locker, limits).await;
        let taken = taken.map_err(|e| match e {
            NotTaken::Late(obstacle) => Stop::Late(obstacle),
            NotTaken::Refused(e, who) => Stop::waiting(e, who),
        })?;
        (self.started, self.deadline) = (taken.started, taken.deadline);
        self.granted = Some(taken.granted);
        Ok(())
    }

    async fn pass_fence(&self) -> Result<(), Stop> {
        self.cutover.fence.pass(self.deadline.left()).await.map(drop).map_err(Stop::of)
    }

    /// What must still be as it was. Old snapshots need no second look: see [`super::snapshots`].
    /// A partition that was one between two looks may have been read: its rows are in the target then, and nowhere
    /// else. What was read of it before the comparison was found there; what is synced since, the stream has told.
    fn nothing_came_and_went(&self, seen: &Fingerprint) -> Result<(), Stop> {
        let captured = &self.cutover.flow.captured;
        let gone = |oid: &u32| *oid != captured.oid && !seen.has_partition(*oid);
        if !captured.is_partitioned || !self.cutover.tracker.told_of().iter().any(gone) {
            return Ok(());
        }
        Err(Stop::Definite(newcomer::came_and_went(&self.cutover.flow)))
    }

    async fn look_again(&self) -> Result<Fingerprint, Stop> {
        let look = async { self.locker.look(self.cutover).await.map_err(Stop::of) };
        let ((), seen) = tokio::try_join!(self.limit(), look)?;
        let table = self.cutover.names.source.to_string();
        self.cutover.fingerprint.check(&seen.fingerprint, &table).map_err(Stop::Definite)?;
        if let Some(obstacle) = new_partitions(self.cutover, &seen.fingerprint) {
            return Err(Stop::Late(obstacle));
        }
        if !seen.all_as_before {
            let what = "privileges were changed just now, or something that hangs on the table";
            return Err(Stop::Late(Obstacle::new(what)));
        }
        Ok(seen.fingerprint)
    }

    async fn final_sync(&self) -> Result<(), Stop> {
        let (flow, session) = (&self.cutover.flow, &self.locker.session);
        let keys: Vec<&Key> = self.batch.iter().flat_map(Batch::keys).collect();
        tokio::try_join!(self.limit(), self.as_owner())?;
        if !keys.is_empty() {
            let synced = self.locker.statements.apply_all(session, flow, &keys).await;
            synced.map_err(|e| match flow.lacks_room(&e) {
                // By the sync, once the lock is given back.
                true => Stop::late("a row came just now for which a partition is to be made"),
                false => Stop::of(e),
            })?;
        }
        let compare: HashSet<&Key> = self.open.iter().chain(keys).collect();
        if compare.is_empty() {
            return Ok(());
        }
        let compare: Vec<&Key> = compare.into_iter().collect();
        let differing =
            self.locker.comparison.run(session, flow, &compare).await.map_err(Stop::of)?;
        match differing.first() {
            Some(d) => Err(Stop::Definite(Error::new(
                Kind::DataDiffers,
                format!("source and shadow differ under the lock: {}", d.text),
            ))),
            None => Ok(()),
        }
    }

    async fn rename(&self) -> Result<(), Stop> {
        // Deferred constraints may have checks pending from the final sync, which would make the
        // renames fail. Functions' bodies that are strings are read under their callers' search path alone.
        let left = self.deadline.left();
        let session = &self.locker.session;
        let mut sql = format!(
            "{}SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL ROLE NONE; SET LOCAL check_function_bodies = off",
            self.deadline.settings(session.version())
        );
        for statement in &self.locker.rehearsed.statements {
            sql.push_str(";\n");
            sql.push_str(statement);
        }
        let migration = self.cutover.flow.migration;
        sql.push_str(&format!(
            ";\nUPDATE pgwraith.migration SET phase = 'done', outcome = 'swapped', \
             finished_at = pg_catalog.clock_timestamp() WHERE id = {migration}; \
             DELETE FROM pgwraith.dirty WHERE migration_id = {migration}; \
             INSERT INTO pgwraith.event (migration_id, what) VALUES ({migration}, 'swapped')"
        ));
        for step in &self.locker.rehearsed.afterwards {
            sql.push_str(&format!(
                ";\nINSERT INTO pgwraith.event (migration_id, what, detail, role) \
                 VALUES ({migration}, 'to do', {}, {})",
                quote_literal(&step.sql),
                step.role.as_deref().map_or("NULL".to_owned(), quote_literal)
            ));
        }
        if let Some(view) = self.cutover.flow.captured.view() {
            // In here: after a crash right behind COMMIT nobody would take it off the old table.
            sql.push_str(&format!(";\nDROP VIEW {view}"));
        }
        // The time that these took is gone: a tool that is stopped now gets only the rest.
        sql.push_str(&format!(
            ";\nSELECT pg_catalog.set_config('idle_in_transaction_session_timeout', GREATEST(1, {} - \
             (EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) \
             * 1000)::pg_catalog.int8)::pg_catalog.text, true)",
            left.as_millis()
        ));
        let wait = self.limits.lock_timeout / 3;
        // Before PostgreSQL 17 the server's limit is for each statement of the batch, and there may be many (two
        // keys of each of hundreds of partitions): so the whole of it is ended from outside.
        let work = watch(self.observer, session.pid(), wait, session.batch(&sql));
        tokio::pin!(work);
        let (renamed, who) = tokio::select! {
            done = &mut work => done,
            () = sleep(left) => {
                look::cancel(self.observer, session.pid()).await.map_err(Stop::of)?;
                work.await
            }
        };
        renamed.map_err(|e| Stop::waiting(e, who))?;
        if !self.locker.still_holds(self.observer).await.map_err(Stop::of)? {
            let what = "privileges were changed just now, or something that hangs on the table, or what that mentions was renamed";
            return Err(Stop::Late(Obstacle::new(what)));
        }
        Ok(())
    }

    async fn commit(&self) -> Result<(), Stop> {
        if self.deadline.is_over() {
            return Err(Stop::late("the deadline was over before COMMIT"));
        }
        let session = &self.locker.session;
        match session.batch("COMMIT").await {
            Ok(()) => Ok(()),
            Err(e) if e.db().is_some() && !session.is_closed() => Err(Stop::of(e)),
            Err(_) => {
                let role = format!("{}/outcome", self.cutover.flow.migration);
                match outcome::committed(self.cutover.connector, &role, &self.locker.xid).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Stop::late("the connection broke at COMMIT")),
                    Err(e) => Err(Stop::Definite(e)),
                }
            }
        }
    }

    async fn limit(&self) -> Result<(), Stop> {
        let session = &self.locker.session;
        let sql = self.deadline.settings(session.version());
        session.batch(&sql).await.map_err(Stop::of)
    }

    async fn as_owner(&self) -> Result<(), Stop> {
        self.cutover.writer.as_owner(&self.locker.session).await.map_err(Stop::of)
    }
}

/// Makes us alone with few keys to sync.
///
/// DDL may queue for the first lock meanwhile, with the application behind it, and with one of those who sync, who holds
/// the door: a circle that the server does not see. So nobody is kept waiting for long.
async fn alone_with_few(
    cutover: &Cutover<'_>,
    observer: &Session,
    locker: &Locker,
) -> Result<Result<Alone, Obstacle>> {
    let entered = async {
        // Many changes may have come while everything was worked out. Where an application never makes few, their
        // sync may still be done in time; but not where it is held back.
        let many = look::until_few(cutover.tracker, DRAINED).await;
        if let Some(obstacle) = many.filter(|_| !cutover.sync_valve.lets(0)) {
            return Err(obstacle);
        }
        // No sync of ours may hold a lock on the shadow, or write it later with an older snapshot.
        let alone = cutover.door.alone().await;
        match cutover.tracker.dirty().on_disk() {
            0 => Ok(alone),
            // Memory has no room for all of them. It would fail under the lock, time and again: the application would
            // stand still for nothing.
            _ => Err(Obstacle::of_keys("changed keys are stored, and are to be applied first")),
        }
    };
    tokio::pin!(entered);
    loop {
        tokio::select! {
            biased;
            entered = &mut entered => return Ok(entered),
            () = sleep(LOOK) => {}
        }
        if look::is_waited_for(observer, locker.session.pid()).await? {
            let what = "somebody waits for the table's lock while changed keys are applied";
            return Ok(Err(Obstacle::new(what)));
        }
    }
}

/// Why an attempt stopped.
enum Stop {
    /// Or what was worked out before the lock does not hold any more.
    Late(Obstacle),
    /// PostgreSQL refused a statement.
    Unsure(Error),
    Definite(Error),
}

impl Stop {
    fn late(text: &str) -> Stop {
        Stop::Late(Obstacle::new(text))
    }

    /// Of a statement that may wait for locks, for `who`, and is about things that somebody may have
    /// dropped, renamed or given away since it was rendered.
    fn waiting(e: Error, who: Option<String>) -> Stop {
        match classify(&e) {
            Class::Late => Stop::Late(late(&e, who)),
            Class::Definite if e.db().is_some() => Stop::Unsure(e),
            _ => Stop::of(e),
        }
    }

    fn of(e: Error) -> Stop {
        match classify(&e) {
            Class::Late | Class::Transient | Class::ConnectionLost => {
                Stop::Late(Obstacle::new(e.what()))
            }
            // A fence that did not return in time.
            Class::Definite if e.kind() == Kind::Failed && e.db().is_none() => {
                Stop::Late(Obstacle::new(e.what()))
            }
            Class::Duplicate => Stop::Definite(e.with_kind(Kind::DataDiffers)),
            _ => Stop::Definite(e),
        }
    }
}
