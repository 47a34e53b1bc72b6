//! What the application feels: how long it takes to read a row by its key, and to commit, against how long
//! that took while the copy rested. A read feels processors and disks; a commit that has something to commit
//! waits for the log, behind all that the copy wrote.
//!
//! What takes longer than before hurts only where somebody else is at work: where nobody is, the
//! probe does not press. What it is held against is measured before the copy begins, and anew whenever the
//! copy has rested for a while: what is slow then is not slow because of us, and an application that is
//! busier by day than it was by night must not stop the copy for good.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::error::Result;
use crate::pg::{Raw, Session};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// How often a row is read.
const EVERY: Duration = Duration::from_millis(40);
/// Each so many reads there is a commit. It is of no row: a message in the log that nobody listens to.
const COMMIT_EACH: usize = 3;
const COMMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgwraith/probe', '')";
/// What is told is of so long.
const WINDOW: Duration = Duration::from_secs(2);
/// Of the reads in it, so many may be slower than what is told.
const QUANTILE: f64 = 0.9;
/// The copy waits so long for the first calm reads.
pub const CALM: Duration = Duration::from_secs(2);
/// After so long a rest what is measured is without the copy.
const RESTED: Duration = Duration::from_secs(20);
/// A server that is not busy answers in no time; some times as long as that is still in no time.
const LEAST_LIMIT: Duration = Duration::from_millis(5);
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
        let took = timed(&felt.reads, &self.session, self.session.run(&self.read, &key)).await?;
        if self.next.is_multiple_of(COMMIT_EACH) {
            timed(&felt.commits, &self.session, self.session.run(&self.commit, &[])).await?;
        }
        tokio::time::sleep(EVERY).await;
        Ok(took)
    }
}

/// Fails where the session is lost.
async fn timed<T>(
    course: &Shared,
    session: &Session,
    work: impl Future<Output = Result<T>>,
) -> Result<Duration> {
    let began = Instant::now();
    lock(course).waiting = Some(began);
    let done = work.await;
    let took = began.elapsed();
    lock(course).came_back(took, Instant::now());
    match done {
        Err(e) if session.is_closed() => return Err(e),
        // It ran into its limit, or the table is not to be read just now: that took as long as it took.
        Err(e) => tracing::debug!("the probe: {e}"),
        Ok(_) => {}
    }
    Ok(took)
}

type Shared = Arc<Mutex<Course>>;

fn lock(course: &Shared) -> MutexGuard<'_, Course> {
    course.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long reads and commits took of late, and in calm times; shared with whoever asks. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Felt {
    reads: Shared,
    commits: Shared,
}

impl Felt {
    /// The copy rests since then, or does not.
    pub fn rests(&self, since: Option<Instant>, now: Instant) {
        lock(&self.reads).rests(since, now);
        lock(&self.commits).rests(since, now);
    }

    /// The readings; nothing presses where nobody else is at work.
    pub fn readings(&self, anybody: bool, limits: &Limits, now: Instant) -> [Reading; 2] {
        [
            lock(&self.reads).reading(("probe", "a read"), anybody, limits, now),
            lock(&self.commits).reading(("probe-commit", "a commit"), anybody, limits, now),
        ]
    }
}

#[derive(Debug, Default)]
struct Course {
    reads: VecDeque<(Instant, Duration)>,
    calm: Option<Duration>,
    began: Option<Instant>,
    /// One that has not come back yet.
    waiting: Option<Instant>,
}

impl Course {
    fn came_back(&mut self, took: Duration, now: Instant) {
        self.waiting = None;
        self.note(took, now);
    }

    fn note(&mut self, took: Duration, now: Instant) {
        self.began.get_or_insert(now);
        self.reads.push_back((now, took));
        while self.reads.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.reads.pop_front();
        }
    }

    /// The quantile of the window.
    fn now(&self, now: Instant) -> Option<Duration> {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).ok()?;
        for (_, took) in &self.reads {
            times.saturating_record(took.as_micros().max(1) as u64);
        }
        let open = self.waiting.map(|began| now.duration_since(began)).unwrap_or_default();
        // A whole window is lost to one that does not come back.
        if open >= WINDOW {
            return Some(open);
        }
        (!times.is_empty()).then(|| Duration::from_micros(times.value_at_quantile(QUANTILE)))
    }

    fn rests(&mut self, since: Option<Instant>, now: Instant) {
        if since.is_some_and(|since| now.duration_since(since) >= RESTED)
            && self.waiting.is_none_or(|began| now.duration_since(began) < WINDOW)
        {
            self.calm = self.now(now);
        }
    }

    fn reading(
        &mut self,
        (signal, what): (&str, &str),
        anybody: bool,
        limits: &Limits,
        now: Instant,
    ) -> Reading {
        let signal = signal.to_owned();
        if self.calm.is_none() && self.began.is_some_and(|began| now.duration_since(began) >= CALM)
        {
            self.calm = self.now(now);
        }
        let (Some(calm), Some(took)) = (self.calm, self.now(now)) else {
            // It is known in a moment.
            return Reading {
                signal,
                pressure: None,
                text: format!("{what} is timed in calm first"),
            };
        };
        let by_factor = calm.mul_f64(limits.probe_factor).max(LEAST_LIMIT);
        let limit = limits.probe_latency.unwrap_or(by_factor);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let pressure = if anybody { ms(took) / ms(limit).max(0.001) } else { 0.0 };
        let text = match anybody {
            true => format!(
                "{what} takes {:.1} of {:.1} ms, {:.1} when calm",
                ms(took),
                ms(limit),
                ms(calm)
            ),
            false => "nobody else is at work".to_owned(),
        };
        Reading { signal, pressure: Some(pressure), text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: (&str, &str) = ("probe", "a read");

    fn course(times: impl IntoIterator<Item = (u64, u64)>, start: Instant) -> Course {
        let mut course = Course::default();
        for (at, took) in times {
            course.note(Duration::from_micros(took), start + Duration::from_millis(at));
        }
        course
    }

    #[test]
    fn what_a_read_takes_is_held_against_calm_times() {
        let (start, limits) = (Instant::now(), Limits { probe_factor: 2.5, ..Limits::default() });
        let at = |ms| start + Duration::from_millis(ms);
        let mut course = course((0..10).map(|n| (n * 100, 4_000)), start);
        assert_eq!(course.reading(READ, true, &limits, at(950)).pressure, None, "not known yet");
        let calm = course.reading(READ, true, &limits, at(2_000));
        assert!((0.39..0.41).contains(&calm.pressure.unwrap()), "{calm:?}");
        for n in 0..30 {
            course.note(Duration::from_millis(20), at(2_000 + n * 100));
        }
        let slow = course.reading(READ, true, &limits, at(5_000));
        assert!((1.9..2.1).contains(&slow.pressure.unwrap()), "{slow:?}");
        assert_eq!(slow.text, "a read takes 20.0 of 10.0 ms, 4.0 when calm");
        assert_eq!(
            course.reading(READ, false, &limits, at(5_000)).pressure,
            Some(0.0),
            "nobody is hurt"
        );
        let absolute = Limits { probe_latency: Some(Duration::from_millis(40)), ..limits.clone() };
        assert!(course.reading(READ, true, &absolute, at(5_000)).pressure.unwrap() < 0.51);

        // While the copy rests for long the same is nobody's fault.
        course.rests(Some(at(0)), at(10_000));
        assert!(
            course.reading(READ, true, &limits, at(10_000)).pressure.unwrap() > 1.0,
            "too short a rest"
        );
        course.rests(None, at(60_000));
        assert!(course.reading(READ, true, &limits, at(60_000)).pressure.unwrap() > 1.0, "no rest");
        course.rests(Some(at(0)), at(60_000));
        assert!(course.reading(READ, true, &limits, at(60_000)).pressure.unwrap() < 0.5);
    }

    #[test]
    fn a_read_that_does_not_come_back_counts() {
        let (start, limits) = (Instant::now(), Limits::default());
        let at = |ms| start + Duration::from_millis(ms);
        let mut course = course((0..30).map(|n| (n * 100, 100)), start);
        assert!(course.reading(READ, true, &limits, at(3_000)).pressure.unwrap() < 0.1);
        course.waiting = Some(at(3_000));
        assert!(course.reading(READ, true, &limits, at(4_000)).pressure.unwrap() < 0.1);
        assert!(course.reading(READ, true, &limits, at(6_000)).pressure.unwrap() > 1.0);
    }

    #[test]
    fn on_a_server_that_is_not_busy_twice_nothing_is_nothing() {
        let (start, limits) = (Instant::now(), Limits::default());
        let at = |ms| start + Duration::from_millis(ms);
        let mut course = course((0..30).map(|n| (n * 100, 100)), start);
        course.reading(READ, true, &limits, at(3_000));
        for n in 0..30 {
            course.note(Duration::from_micros(400), at(3_000 + n * 100));
        }
        assert!(course.reading(READ, true, &limits, at(6_000)).pressure.unwrap() <= 0.1);
    }
}
