//! The cutover up to its lock, and no further: what it would lock in which order, and for how long.
//!
//! Everything that an attempt works out before its lock is worked out for real, under the first lock,
//! which no read and no write notices. None of the locks that would keep the application waiting is taken:
//! the renames are timed by one of the shadow, which nobody else uses, rolled back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::locker::Locker;
use super::patience::Patience;
use super::{Cutover, back_off, look};
use crate::error::Result;
use crate::flow::sync::FENCE_LIMIT;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, quote_ident};

/// How often the fence is passed.
const FENCES: usize = 20;

/// What a cutover would do.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Rehearsal {
    /// The statements that take its locks, in order.
    pub locks: Vec<String>,
    /// How many statements exchange the names.
    pub statements: usize,
    pub fence_p50_ms: f64,
    pub fence_max_ms: f64,
    /// How long the locks would be held, with nobody in the way.
    pub lock_ms: f64,
    /// What was in the way, the last of it, where it was never out of it.
    pub obstacle: Option<String>,
}

impl Cutover<'_> {
    /// Tries until patience is over.
    pub async fn rehearse(&self) -> Result<Rehearsal> {
        let (observer, syncer) = self.open().await?;
        let mut fences = self.fences().await?;
        fences.sort_unstable();
        let ms = |took: Option<&Duration>| took.map_or(0.0, |took| took.as_secs_f64() * 1000.0);
        let mut rehearsal = Rehearsal {
            fence_p50_ms: ms(fences.get(FENCES / 2)),
            fence_max_ms: ms(fences.last()),
            ..Rehearsal::default()
        };
        // A rehearsal has an end, whatever holds it up.
        let limit = || (self.limits)().patience;
        let patience = Patience::new(&limit, None);
        let mut tries = 0;
        loop {
            match self.prepare(&observer, &syncer, &patience).await? {
                Ok(locker) => {
                    let fence = fences.get(FENCES / 2).copied().unwrap_or_default();
                    // As in an attempt, which has the shadow for itself.
                    let alone = self.door.alone().await;
                    let held = self.held_for(&locker, &observer, fence).await;
                    drop(alone);
                    let held = match held {
                        Err(e) if matches!(classify(&e), Class::Late | Class::Transient) => {
                            rehearsal.obstacle = Some(e.what().to_owned());
                            return Ok(rehearsal);
                        }
                        held => held?,
                    };
                    rehearsal.lock_ms = ms(Some(&held));
                    rehearsal.locks = locker.rehearsed.locks.statements.clone();
                    rehearsal.locks.extend(locker.rehearsed.locks.sequences.iter().cloned());
                    rehearsal.statements = locker.rehearsed.statements.len();
                    rehearsal.obstacle = None;
                    locker.session.rollback().await;
                    return Ok(rehearsal);
                }
                Err(obstacle) => rehearsal.obstacle = Some(obstacle.text),
            }
            if patience.left().is_zero() {
                return Ok(rehearsal);
            }
            tries += 1;
            look::wait_for_standbys(&observer).await?;
            sleep(back_off(tries)).await;
        }
    }

    async fn fences(&self) -> Result<Vec<Duration>> {
        let mut all = Vec::new();
        for _ in 0..FENCES {
            all.push(self.fence.pass(FENCE_LIMIT).await?);
        }
        Ok(all)
    }

    /// The steps of an attempt, each as long as the same took here: the locks one by one, the fence and at
    /// the same time the look, the renames at once, what is read again behind them, the COMMIT.
    async fn held_for(
        &self,
        locker: &Locker,
        observer: &Session,
        fence: Duration,
    ) -> Result<Duration> {
        locker.warm(self, observer).await?;
        let locks = &locker.rehearsed.locks;
        let locks = (locks.statements.len() + locks.sequences.len()) as u32;
        let again = format!("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE", self.names.shadow);
        let lock = timed(locker.session.batch(&again)).await?;
        let look = timed(locker.look(self)).await?;
        let renames = self.renames_take(locker).await?;
        let read_again = timed(locker.still_holds(observer)).await?;
        let written = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgwraith/rehearsal', '')";
        let commit = timed(observer.batch(written)).await?;
        Ok(lock * locks + look.max(fence) + renames + read_again + commit)
    }

    async fn renames_take(&self, locker: &Locker) -> Result<Duration> {
        let (shadow, other) = (&self.names.shadow, &self.names.retired);
        let there_and_back = format!(
            "ALTER TABLE {shadow} RENAME TO {}; ALTER TABLE {other} RENAME TO {}",
            quote_ident(&other.name),
            quote_ident(&shadow.name)
        );
        let session = &locker.session;
        session.batch("SAVEPOINT rename").await?;
        // Once only: under the lock each of them finds the caches cold, too.
        let two = timed(session.batch(&there_and_back)).await?;
        session.batch("ROLLBACK TO SAVEPOINT rename").await?;
        Ok(two * locker.rehearsed.statements.len() as u32 / 2)
    }
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}
