//! What the application feels: how long it takes to read a row by its key, and to commit, against how long
//! that took while the copy rested. A read feels processors and disks; a commit that has something to commit
//! waits for the log, behind all that the copy wrote.
//!
//! What takes longer than when nobody of ours works hurts only where somebody else is at work: where nobody is,
//! the probe does not press. What it is held against is measured before the copy begins, and all the
//! time while it rests, if only for a moment: what is slow then is not slow because of us, and an
//! application that is busier by day than it was by night must not stop the copy for good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::average_active::AverageActive;
use super::backlog::Backlog;
use super::lately::Lately;
use crate::error::Result;
use crate::pg::{Raw, Session};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;
use crate::throttle::valve::Valve;

/// How often a row is read.
const EVERY: Duration = Duration::from_millis(40);
/// After each there is a commit. It is of no row: a message in the log that nobody listens to.
const COMMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgwraith/probe', '')";
/// What is told is of so long.
const WINDOW: Duration = Duration::from_secs(2);
/// Of the reads in it, so many may be slower than what is told.
const QUANTILE: f64 = 0.9;
/// The copy waits so long for the first calm reads.
pub const CALM: Duration = Duration::from_secs(2);
/// What is felt without us is of so long.
const REMEMBERED: Duration = Duration::from_secs(30);
/// And of moments before which nobody of ours has worked for so long. Ours rest within a range, too, for less than
/// that: what is felt in such a rest is part of how the copy goes, else only its worst moments would be.
pub(super) const SETTLED: Duration = Duration::from_millis(120);
/// With fewer of either sort nothing can be said.
const FEWEST: usize = 5;
/// A server that is not busy answers in no time; some times as long as that is still in no time. So much more
/// than when calm is never too much.
const LEAST_MORE: Duration = Duration::from_millis(1);
/// Ours make way for so many times as long as it is until they are counted again.
const WAY: u32 = 3;
/// A read that does not come back is as bad as one that took so long; it is told meanwhile.
const LIMIT: &str = "10s";

/// Reads rows of one table.
pub struct Prober {
    /// Used for this alone.
    session: Session,
    read: Statement,
    commit: Statement,
    keys: Vec<Vec<Raw>>,
    next: usize,
}

impl Prober {
    /// `sql` reads a row by its key, one of `keys`.
    pub async fn prepare(session: Session, sql: &str, keys: Vec<Vec<Raw>>) -> Result<Self> {
        session.set("statement_timeout", LIMIT).await?;
        // Standbys have signals of their own.
        session.set("synchronous_commit", "local").await?;
        let (read, commit) = (session.prepare(sql).await?, session.prepare(COMMIT).await?);
        Ok(Prober { session, read, commit, keys, next: 0 })
    }

    /// Reads one, and waits until it is time for the next. Returns how long the read took; fails where the
    /// session is lost.
    pub async fn probe(&mut self, felt: &Felt) -> Result<Duration> {
        let Some(key) = self.keys.get(self.next % self.keys.len().max(1)) else {
            return std::future::pending().await;
        };
        self.next += 1;
        let key: Vec<&(dyn ToSql + Sync)> = key.iter().map(|k| k as &(dyn ToSql + Sync)).collect();
        let took =
            felt.time(&felt.reads, &self.session, self.session.run(&self.read, &key)).await?;
        felt.time(&felt.commits, &self.session, self.session.run(&self.commit, &[])).await?;
        tokio::time::sleep(EVERY).await;
        Ok(took)
    }
}

type Shared = Arc<Mutex<Course>>;

fn lock<T>(course: &Mutex<T>) -> MutexGuard<'_, T> {
    course.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long reads and commits took of late, and in calm times; shared with whoever asks. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Felt {
    reads: Shared,
    commits: Shared,
    active: Arc<Mutex<AverageActive>>,
    backlog: Arc<Mutex<Backlog>>,
    /// Of whoever works at the copy.
    valve: Valve,
    /// Somebody else is at work, and what is usual is what counts.
    heeds: Arc<AtomicBool>,
}

impl Felt {
    pub fn new(valve: Valve) -> Self {
        let (reads, commits) = (Shared::default(), Shared::default());
        let (active, backlog) = (Arc::default(), Arc::default());
        Felt { reads, commits, active, backlog, valve, heeds: Arc::default() }
    }

    /// Whether those at the copy make way where the application has a queue before it.
    pub fn heed(&self, heeds: bool) {
        self.heeds.store(heeds, Ordering::Relaxed);
    }

    /// Fails where the session is lost.
    async fn time<T>(
        &self,
        course: &Shared,
        session: &Session,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Duration> {
        let began = Instant::now();
        lock(course).waiting = Some(began);
        let done = work.await;
        let took = began.elapsed();
        let settled = |idle| idle >= SETTLED.saturating_add(took);
        let calm = self.valve.presence().idle_for().is_some_and(settled) && !self.drains();
        lock(course).came_back(took, calm, Instant::now());
        match done {
            Err(e) if session.is_closed() => return Err(e),
            // It ran into its limit, or the table is not to be read just now: that took as long as it took.
            Err(e) => tracing::debug!("the probe: {e}"),
            Ok(_) => {}
        }
        Ok(took)
    }

    /// All transactions that write before this one were begun, and most are done.
    pub(super) fn looked(&self, transaction: u64) {
        let rests = self.valve.presence().idle_for().is_some_and(|idle| idle >= SETTLED);
        lock(&self.backlog).looked(transaction, rests, Instant::now());
    }

    /// So many sessions of others are at work just now, and they are counted again after so long. Where that shows a
    /// queue, everybody of ours makes way until then.
    pub(super) fn counted(&self, count: f64, again: Duration) {
        let idle = self.valve.presence().idle_for();
        let queue = lock(&self.active).counted(count, idle, Instant::now());
        if queue && self.heeds.load(Ordering::Relaxed) {
            self.valve.hush(again * WAY);
        }
    }

    /// Whether the application still has before it what we kept from it, also while we rest.
    pub fn drains(&self) -> bool {
        lock(&self.active).drains()
    }

    /// The readings; nothing presses where nobody else is at work. Where it is said how long a read may take, what is
    /// usual does not count, nor how many are at work, or wait.
    pub fn readings(&self, anybody: bool, limits: &Limits, now: Instant) -> Vec<Reading> {
        let mut readings = vec![
            lock(&self.reads).reading(("probe", "a read"), anybody, limits, now),
            lock(&self.commits).reading(("probe-commit", "a commit"), anybody, limits, now),
        ];
        if limits.probe_latency.is_none() {
            readings.extend(lock(&self.active).reading(anybody, limits, now));
            readings.extend(lock(&self.backlog).reading(anybody, limits, now));
        }
        readings
    }
}

#[derive(Debug, Default)]
struct Course {
    /// While the copy worked, or something that is not known here went on.
    busy: Lately<Duration>,
    /// While nobody of ours worked.
    calm: Lately<Duration>,
    /// What it takes when calm, as it was last known.
    usual: Option<Duration>,
    began: Option<Instant>,
    /// One that has not come back yet.
    waiting: Option<Instant>,
}

impl Course {
    fn came_back(&mut self, took: Duration, calm: bool, now: Instant) {
        self.waiting = None;
        self.began.get_or_insert(now);
        self.busy.forget(now, WINDOW);
        self.calm.forget(now, REMEMBERED);
        if calm { &mut self.calm } else { &mut self.busy }.note(now, took);
    }

    /// Of the window; without the copy, where it has hardly worked in it.
    fn now(&self, now: Instant) -> Option<Duration> {
        let open = self.waiting.map(|began| now.duration_since(began)).unwrap_or_default();
        // A whole window is lost to one that does not come back.
        if open >= WINDOW {
            return Some(open);
        }
        slowest(self.busy.within(now, WINDOW))
            .or_else(|| slowest(self.calm.within(now, WINDOW)))
            .or(self.usual)
    }

    fn reading(
        &mut self,
        (signal, what): (&str, &str),
        anybody: bool,
        limits: &Limits,
        now: Instant,
    ) -> Reading {
        if self.began.is_some_and(|began| now.duration_since(began) >= CALM) {
            // What comes over the server for a moment shows in the moment alone.
            let lately = slowest(self.calm.within(now, WINDOW));
            self.usual = slowest(self.calm.within(now, REMEMBERED)).max(lately).or(self.usual);
        }
        let (Some(calm), Some(took)) = (self.usual, self.now(now)) else {
            // It is known in a moment.
            let text = || format!("{what} is timed in calm first");
            return Reading::of_application(signal, anybody, None, text);
        };
        let by_factor = calm.mul_f64(limits.probe_factor).max(calm + LEAST_MORE);
        let limit = limits.probe_latency.unwrap_or(by_factor);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        // What it takes when calm does not press: it is not ours, and what is far above it may be near the limit.
        let own = if limit > calm { calm } else { Duration::ZERO };
        let share = ms(took.saturating_sub(own)) / ms(limit - own).max(0.001);
        Reading::of_application(signal, anybody, Some(share), || {
            format!(
                "{what} takes {:.1} of {:.1} ms, {:.1} when calm",
                ms(took),
                ms(limit),
                ms(calm)
            )
        })
    }
}

/// The quantile.
fn slowest<'a>(all: impl Iterator<Item = &'a Duration>) -> Option<Duration> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).ok()?;
    for took in all {
        times.saturating_record(took.as_micros().max(1) as u64);
    }
    (times.len() >= FEWEST as u64).then(|| Duration::from_micros(times.value_at_quantile(QUANTILE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: (&str, &str) = ("probe", "a read");

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Reads of so many microseconds, ten a second, from so many milliseconds on.
    fn note(course: &mut Course, start: Instant, calm: bool, from: u64, n: u64, took: u64) {
        for i in 0..n {
            course.came_back(Duration::from_micros(took), calm, start + MS(from + i * 100));
        }
    }

    fn pressure(course: &mut Course, limits: &Limits, at: Instant) -> f64 {
        course.reading(READ, true, limits, at).pressure.unwrap()
    }

    #[test]
    fn what_a_read_takes_is_held_against_calm_times() {
        let (start, limits) = (Instant::now(), Limits { probe_factor: 2.5, ..Limits::default() });
        let at = |ms| start + MS(ms);
        let mut course = Course::default();
        note(&mut course, start, true, 0, 10, 4_000);
        assert_eq!(course.reading(READ, true, &limits, at(950)).pressure, None, "not known yet");
        assert_eq!(pressure(&mut course, &limits, at(2_000)), 0.0, "what it takes without us");
        note(&mut course, start, false, 2_000, 30, 7_000);
        let slow = course.reading(READ, true, &limits, at(5_000));
        assert!((0.49..0.51).contains(&slow.pressure.unwrap()), "{slow:?}");
        assert_eq!(slow.text, "a read takes 7.0 of 10.0 ms, 4.0 when calm");
        let nobody = course.reading(READ, false, &limits, at(5_000)).pressure;
        assert_eq!(nobody, Some(0.0), "nobody is hurt");
        let absolute = Limits { probe_latency: Some(MS(16)), ..limits.clone() };
        assert!((0.24..0.26).contains(&pressure(&mut course, &absolute, at(5_000))));
        let less = Limits { probe_latency: Some(MS(2)), ..limits.clone() };
        assert!(pressure(&mut course, &less, at(5_000)) > 3.0, "over it even when calm");

        // It is as slow while nobody of ours works: then it is nobody's fault.
        note(&mut course, start, true, 5_000, 300, 7_000);
        note(&mut course, start, false, 35_000, 10, 7_000);
        assert_eq!(pressure(&mut course, &limits, at(36_000)), 0.0);
    }

    #[test]
    fn a_copy_that_hardly_works_is_not_felt() {
        let (start, limits) = (Instant::now(), Limits::default());
        let at = |ms| start + MS(ms);
        let mut course = Course::default();
        note(&mut course, start, true, 0, 30, 2_000);
        note(&mut course, start, false, 3_000, 4, 50_000);
        note(&mut course, start, true, 3_050, 10, 2_000);
        assert_eq!(pressure(&mut course, &limits, at(4_100)), 0.0);
        note(&mut course, start, false, 4_100, 4, 50_000);
        assert!(pressure(&mut course, &limits, at(4_500)) > 1.0);
    }

    #[test]
    fn a_read_that_does_not_come_back_counts() {
        let (start, limits) = (Instant::now(), Limits::default());
        let at = |ms| start + MS(ms);
        let mut course = Course::default();
        note(&mut course, start, true, 0, 30, 100);
        assert!(pressure(&mut course, &limits, at(3_000)) < 0.1);
        course.waiting = Some(at(3_000));
        assert!(pressure(&mut course, &limits, at(4_000)) < 0.1);
        assert!(pressure(&mut course, &limits, at(6_000)) > 1.0);
    }

    #[test]
    fn on_a_server_that_is_not_busy_twice_nothing_is_nothing() {
        let (start, limits) = (Instant::now(), Limits::default());
        let mut course = Course::default();
        note(&mut course, start, true, 0, 30, 50);
        note(&mut course, start, false, 3_000, 30, 120);
        assert!(pressure(&mut course, &limits, start + MS(6_000)) <= 0.1);
    }
}
