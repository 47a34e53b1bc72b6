//! The swap: one transaction, under one lock, with a deadline that the server enforces.
//!
//! **Invariant 7.** Lock, fence, final sync, comparison, rename: one session, one transaction
//! ([`attempt`]). Before its first LOCK every timeout is set to what is left of the deadline, so a
//! tool that is stopped, cut off or dead holds the application no longer than that. It commits with
//! `synchronous_commit = local` and never NOTIFYs. Whatever is late or fails rolls back to before the
//! lock, and the application goes on with the old table. If the connection breaks at COMMIT, the
//! outcome is looked up ([`outcome`]), not guessed.

mod attempt;
mod deadline;
mod in_place;
mod locker;
mod locks;
mod look;
mod met;
mod outcome;
mod patience;
mod rehearse;
mod snapshots;
mod take;
mod window;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::catalog::{Baseline, Carried, Table};
use crate::change::Request;
use crate::change::partition::Partitioning;
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::flow::capture::{Fence, Tracker};
use crate::flow::key::Key;
use crate::flow::sync::{Full, Syncer};
use crate::flow::write::{Alone, Door, Writer};
use crate::pg::{Connector, QualifiedName, Session};
use crate::shadow::Names;
use crate::telemetry::Meter;
use crate::throttle::valve::Valve;

use attempt::{Attempt, Tried};
pub use in_place::{Altered, InPlace, Ready, Sent, Work, still_instant};
use locker::Locker;
use look::Obstacle;
use met::Met;
use patience::Patience;
pub use rehearse::Rehearsal;
pub use window::{KNOWN_ZONES, Window};

/// How often to look whether the operator lets it go on.
const HELD_POLL: Duration = Duration::from_millis(100);

/// Pauses between two questions to who may put it off begin with this and double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A try waits for older snapshots no longer than this.
const SNAPSHOTS: Duration = Duration::from_secs(10);

/// The limits of the cutover.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first lock request to the end of COMMIT.
    pub max_lock_hold: Duration,
    /// From the first lock request to the last grant; halved deadlock_timeout where that is less.
    pub lock_timeout: Duration,
    /// How long to go on trying.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_lock_hold: Duration::from_millis(500),
            lock_timeout: Duration::from_millis(250),
            patience: Duration::from_secs(1800),
        }
    }
}

/// How the swap went.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Swapped {
    pub attempts: u32,
    /// From the first grant to COMMIT's reply.
    pub lock_held_ms: f64,
    /// From the first request to COMMIT's reply.
    pub stall_ms: f64,
    pub steps: Steps,
}

/// Where the time of an attempt went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Steps {
    /// All locks, from the first request.
    pub lock_ms: f64,
    /// The fence, and at the same time the second look at the catalogs.
    pub look_ms: f64,
    /// The final sync and its comparison.
    pub sync_ms: f64,
    /// The exchange of names, and everything that follows the table.
    pub rename_ms: f64,
    pub commit_ms: f64,
}

/// A swap that is done. What is left to do, prove the foreign keys that were bound NOT VALID among others,
/// is in `pgwraith.event`, in the transaction of the swap.
pub struct Done {
    pub swapped: Swapped,
    /// Keeps every writer out until they have ended.
    pub shut: Alone,
}

/// What the cutover works with.
pub struct Cutover<'a> {
    pub connector: &'a Connector,
    pub flow: Arc<Flow>,
    pub writer: &'a Writer,
    pub tracker: &'a Tracker,
    pub door: &'a Door,
    pub fence: &'a Fence,
    pub names: &'a Names,
    /// What was asked for.
    pub request: &'a Request,
    /// The table as it will be, as rehearsed before the copy began.
    pub target: &'a Table,
    /// How that is divided, where it is.
    pub partitioning: Option<&'a Partitioning>,
    pub fingerprint: &'a Baseline,
    pub meter: &'a Meter,
    /// As they are by now: the operator may change them until it is done.
    pub limits: &'a (dyn Fn() -> Limits + Sync),
    /// What the operator has it wait for, if anything.
    pub held: &'a (dyn Fn() -> Option<String> + Sync),
    /// Asked before the first attempt, while no lock is held, and again after the operator had it wait.
    pub before: &'a dyn Before,
    /// What holds back those who sync.
    pub sync_valve: &'a Valve,
}

/// Whoever has a word on when it begins.
pub trait Before: Sync {
    /// Why it shall not be now, if it shall not.
    fn minds(&self) -> BoxFuture<'_, Option<String>>;
}

impl Cutover<'_> {
    /// Swaps; tries again until patience is over. `open` are the keys that verification
    /// found too hot to compare: they are compared under the lock.
    pub async fn run(&self, open: HashSet<Key>) -> Result<Done> {
        let (observer, syncer) = self.open().await?;
        let limit = || (self.limits)().patience;
        let mut patience = Patience::new(&limit, Some(self.sync_valve));
        let mut attempts = 0;
        let mut met = Met::default();
        let mut refused: Option<String> = None;
        let mut asked = false;
        loop {
            if is_held(self.held, self.meter, "the cutover").await {
                patience.begin_anew();
                asked = false;
            }
            if !asked {
                ask(self.before, self.meter, &patience).await?;
                asked = true;
                // That may have taken its time.
                continue;
            }
            let obstacle = match self.prepare(&observer, &syncer, &patience).await? {
                Err(obstacle) => obstacle,
                // He may have said so meanwhile.
                Ok(_) if (self.held)().is_some() => continue,
                Ok(ready) => {
                    attempts += 1;
                    let tried = Attempt::make(self, &observer, &ready, &open, attempts).await?;
                    match tried {
                        Tried::Swapped { lock_held, stall, steps, shut } => {
                            self.meter.lock_waits(None);
                            let swapped = Swapped {
                                attempts,
                                lock_held_ms: lock_held.as_secs_f64() * 1000.0,
                                stall_ms: stall.as_secs_f64() * 1000.0,
                                steps,
                            };
                            return Ok(Done { swapped, shut });
                        }
                        Tried::Late(obstacle) => obstacle,
                        Tried::Failed(e) if refused.as_deref() == Some(e.what()) => {
                            return Err(e.context("the swap was refused twice"));
                        }
                        Tried::Failed(e) => {
                            refused = Some(e.what().to_owned());
                            Obstacle::new(format!("the swap was refused: {}", e.what()))
                        }
                    }
                }
            };
            self.meter.lock_waits(Some(&obstacle.text));
            let is_news = met.again(&obstacle, Instant::now());
            patience.met(&obstacle);
            if patience.left().is_zero() {
                return Err(out_of_patience(patience.limit(), attempts, &met));
            }
            if is_news {
                self.meter.note(format!("the cutover waits: {}", obstacle.text));
            }
            // No lock is held here, and none while we wait for snapshots: DDL that queued behind it would
            // have one, with the application behind the DDL, and we would wait for it. DDL that comes once
            // we have the first lock waits for one attempt, which goes in front of it.
            look::wait_for_standbys(&observer).await?;
            sleep(back_off(attempts)).await;
        }
    }

    /// Who looks from outside, and who syncs what is left.
    async fn open(&self) -> Result<(Session, Syncer)> {
        let role = |what: &str| format!("{}/{what}", self.flow.migration);
        let observer = self.connector.session(&role("observer")).await?;
        // What it looks at under the lock is planned before it: half of 10 ms were its plan.
        observer.set("plan_cache_mode", "force_generic_plan").await?;
        let session = self.connector.session(&role("final sync")).await?;
        let syncer = Syncer::new(session, Arc::clone(&self.flow), self.writer.clone()).await?;
        Ok((observer, syncer))
    }

    /// Everything that can be done without blocking anybody. On success the shadow has equalled the
    /// source at a snapshot, nobody uses an older one, and DDL on the source is locked out.
    async fn prepare(
        &self,
        observer: &Session,
        syncer: &Syncer,
        patience: &Patience<'_>,
    ) -> Result<Result<Locker, Obstacle>> {
        let together = self.tracker.keep_together();
        if let Some(obstacle) = look::backlog(self.tracker, self.fence).await? {
            return Ok(Err(obstacle));
        }
        match syncer.full(self.tracker, self.door, self.fence).await? {
            Full::Equal(..) => {}
            Full::Truncated => return Ok(Err(Obstacle::new("the table was truncated just now"))),
            Full::Behind => {
                return Ok(Err(Obstacle::of_keys("many changed keys wait to be applied")));
            }
            Full::Divided => return Ok(Err(Obstacle::new("a partition was made just now"))),
        };
        drop(together);
        let limit = patience.left().min(SNAPSHOTS);
        if let Some(obstacle) = snapshots::wait_for_older(observer, limit).await? {
            return Ok(Err(obstacle));
        }
        if let Some(obstacle) = look::long_holders(observer, &self.flow, &[]).await? {
            return Ok(Err(obstacle));
        }
        let ready = match Locker::open(self, observer).await? {
            Ok(locker) => locker,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        let others = &ready.rehearsed.locks.relations;
        if let Some(obstacle) = look::long_holders(observer, &self.flow, others).await? {
            return Ok(Err(obstacle));
        }
        Ok(Ok(ready))
    }
}

/// Waits for the operator, who holds `what` up. Returns whether it did.
async fn is_held(held: &(dyn Fn() -> Option<String> + Sync), meter: &Meter, what: &str) -> bool {
    let mut told = String::new();
    while let Some(why) = held() {
        if told != why {
            meter.note(format!("{what} waits: {why}"));
            meter.lock_waits(Some(&why));
            told = why;
        }
        sleep(HELD_POLL).await;
    }
    if !told.is_empty() {
        meter.lock_waits(None);
    }
    !told.is_empty()
}

/// Asks until nobody minds, or patience is over.
async fn ask(before: &dyn Before, meter: &Meter, patience: &Patience<'_>) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    while let Some(why) = before.minds().await {
        let left = patience.left();
        if left.is_zero() {
            let seconds = patience.limit().as_secs();
            return Err(Error::failed(format!(
                "the cutover was put off for {seconds} s (--cutover-patience): {why}"
            )));
        }
        meter.note(format!("the cutover waits: {why}"));
        meter.lock_waits(Some(&why));
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    meter.lock_waits(None);
    Ok(())
}

fn out_of_patience(limit: Duration, attempts: u32, met: &Met) -> Error {
    let told: Vec<&str> = met.last_ones().take(3).collect();
    Error::new(
        Kind::Failed,
        format!(
            "the cutover did not get its lock in {} s and {attempts} attempts: {}",
            limit.as_secs(),
            told.join("; before that: ")
        ),
    )
    .next("End what is in the way, or try at a calmer time")
}

/// The statements that take the locks of a swap, in their order, each for itself.
pub fn lock_statements(
    shadow: &QualifiedName,
    source: &Table,
    target: &Table,
    carried: &[Carried],
) -> Vec<String> {
    let locks = locks::locks(shadow, source, target, carried);
    locks.statements.into_iter().chain(locks.sequences).collect()
}

/// Longer and longer, with jitter, so as not to fall into step with a periodic job.
fn back_off(attempts: u32) -> Duration {
    let base = 50u64 << attempts.min(6);
    Duration::from_millis(rand::rng().random_range(base / 2..=base))
}
