//! How fast a part was copied, and when it is enough.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Extent;
use super::measure::Copied;
use crate::telemetry::Times;

/// The first ranges are small, and the throttle opens slowly, once: no longer part of the time is that, and no more
/// seconds.
const WARM_UP: f64 = 0.75;
const LONGEST_WARM_UP: f64 = 3.0;

/// Takes the time of a copy.
pub(super) struct Clock {
    began: Instant,
    extent: Extent,
    /// Of the whole table.
    rows: f64,
    enough: CancellationToken,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    ranges: Vec<Range>,
    /// By all of them.
    passed: u64,
}

/// One range: when it was done, in seconds from the beginning.
#[derive(Debug, Clone, Copy)]
struct Range {
    done: f64,
    rows: u64,
    /// Rows of the source, wanted or not.
    passed: u64,
    took: Duration,
}

impl Clock {
    /// Starts; `enough` is said as soon as `extent` is reached of about so many rows.
    pub(super) fn new(extent: Extent, rows: f64, enough: CancellationToken) -> Self {
        Clock { began: Instant::now(), extent, rows, enough, log: Mutex::default() }
    }

    /// Says when the time is over.
    pub(super) async fn run_out(&self) -> Infallible {
        sleep(self.extent.time).await;
        self.enough.cancel();
        pending().await
    }

    /// A range was copied: so many rows, of so many that were passed.
    pub(super) fn note(&self, rows: u64, passed: u64, took: Duration) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.ranges.push(Range { done: self.began.elapsed().as_secs_f64(), rows, passed, took });
        log.passed += passed;
        if let Some(share) = self.extent.share
            && log.passed as f64 >= share * self.rows
        {
            self.enough.cancel();
        }
    }

    /// What that came to.
    pub(super) fn tell(&self, copied: &mut Copied) {
        sum_up(&self.log.lock().unwrap_or_else(PoisonError::into_inner).ranges, copied);
    }
}

fn sum_up(log: &[Range], copied: &mut Copied) {
    copied.rows = log.iter().map(|range| range.rows).sum();
    copied.passed = log.iter().map(|range| range.passed).sum();
    copied.chunks = log.len() as u64;
    let end = log.iter().map(|range| range.done).fold(0.0, f64::max);
    copied.seconds = end;
    if copied.rows == 0 {
        return;
    }
    let warm = warm_up(log, end);
    let middle = at_range(log, f64::midpoint(warm, end));
    // Where some rows are wanted they may be anywhere: what takes the time is to pass all of them.
    let wanted = copied.rows as f64 / copied.passed.max(1) as f64;
    let rate = |from: f64, to: f64| pace(log, from, to) * wanted;
    copied.warm_up_seconds = warm;
    copied.warm_up_rows = rate(0.0, warm) * warm;
    // A time in which no range ended says nothing.
    let spans = [(warm, end), (warm, middle), (middle, end)];
    let told: Vec<f64> =
        spans.map(|(from, to)| rate(from, to)).into_iter().filter(|rate| *rate > 0.0).collect();
    copied.rows_per_second = told.first().copied();
    copied.slowest = told.iter().copied().reduce(f64::min);
    copied.fastest = told.iter().copied().reduce(f64::max);
    let times = Times::of(log.iter().map(|range| range.took));
    copied.p50_ms = Some(times.p50_ms);
    copied.p90_ms = Some(times.p90_ms);
    copied.p99_ms = Some(times.p99_ms);
    copied.max_ms = Some(times.max_ms);
}

/// Rows a second that were passed in between.
fn pace(log: &[Range], from: f64, to: f64) -> f64 {
    let within = log.iter().filter(|range| range.done > from && range.done <= to);
    within.map(|range| range.passed).sum::<u64>() as f64 / (to - from).max(0.001)
}

/// When the last range before that was done: what is under way counts for the time in which it ends.
fn at_range(log: &[Range], time: f64) -> f64 {
    let before = log.iter().map(|range| range.done).filter(|done| *done <= time);
    before.fold(0.0, f64::max)
}

/// When it was over: where most rows were missing to what the pace of the end would have passed by then.
fn warm_up(log: &[Range], end: f64) -> f64 {
    let latest = (end * WARM_UP).min(LONGEST_WARM_UP);
    let steady = pace(log, at_range(log, end * WARM_UP), end);
    let (mut passed, mut most, mut at) = (0.0, 0.0, 0.0);
    for range in log.iter().take_while(|range| range.done <= latest) {
        // Just before that it was done.
        let missing = steady * range.done - passed;
        // By more than what ranges differ by.
        if missing > most * 1.01 {
            (most, at) = (missing, range.done);
        }
        passed += range.passed as f64;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_does_not_count() {
        let range = |n: u32| Range {
            done: f64::from(n),
            rows: if n <= 2 { 10 } else { 1000 },
            passed: if n <= 2 { 10 } else { 1000 },
            took: Duration::from_millis(u64::from(n)),
        };
        let log: Vec<Range> = (1..=10).map(range).collect();
        let mut copied = Copied::default();
        sum_up(&log, &mut copied);
        assert_eq!((copied.rows, copied.chunks, copied.seconds), (8020, 10, 10.0));
        assert_eq!((copied.warm_up_seconds, copied.warm_up_rows), (3.0, 1020.0));
        let rate = Some(1000.0);
        assert_eq!((copied.rows_per_second, copied.slowest, copied.fastest), (rate, rate, rate));
        assert_eq!(copied.max_ms.map(f64::round), Some(10.0));
        let mut nothing = Copied::default();
        sum_up(&[], &mut nothing);
        assert_eq!((nothing.rows, nothing.rows_per_second, nothing.max_ms), (0, None, None));
    }

    #[test]
    fn however_short_the_time_it_began_slowly_once() {
        // Seen: 38,000 rows a second for 1.8 of 3 s, ten times as many from then on.
        let range = |n: u32| Range {
            done: f64::from(n) / 10.0,
            rows: if n <= 18 { 3_800 } else { 38_000 },
            passed: if n <= 18 { 3_800 } else { 38_000 },
            took: Duration::from_millis(100),
        };
        let mut copied = Copied::default();
        sum_up(&(1..=30).map(range).collect::<Vec<_>>(), &mut copied);
        assert!((1.79..1.91).contains(&copied.warm_up_seconds), "{copied:?}");
        let rate = copied.rows_per_second.unwrap();
        assert!((379_000.0..381_000.0).contains(&rate), "{copied:?}");
    }

    #[test]
    fn rows_that_are_not_wanted_take_their_time() {
        // All that are wanted are in the first half.
        let range = |n: u32| Range {
            done: f64::from(n),
            rows: if n <= 5 { 200 } else { 0 },
            passed: 1000,
            took: Duration::from_millis(1),
        };
        let log: Vec<Range> = (1..=10).map(range).collect();
        let mut copied = Copied::default();
        sum_up(&log, &mut copied);
        assert_eq!((copied.rows, copied.passed), (1000, 10_000));
        let rate = Some(100.0);
        assert_eq!((copied.rows_per_second, copied.slowest, copied.fastest), (rate, rate, rate));
    }

    #[tokio::test]
    async fn a_share_is_enough_once_it_is_reached() {
        let enough = CancellationToken::new();
        let extent = Extent { time: Duration::from_secs(3600), share: Some(0.05) };
        let clock = Clock::new(extent, 1000.0, enough.clone());
        // Of the rows that are passed, whether they are wanted or not.
        clock.note(5, 49, Duration::from_millis(1));
        assert!(!enough.is_cancelled());
        clock.note(0, 1, Duration::from_millis(1));
        assert!(enough.is_cancelled());
    }
}
