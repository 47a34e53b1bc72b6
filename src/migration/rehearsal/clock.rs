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

/// The first ranges are small, and the throttle opens slowly: so much of the time does not count, and no
/// more seconds.
const WARM_UP: f64 = 0.2;
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
    /// Of all of them.
    rows: u64,
}

/// One range: when it was done, in seconds from the beginning.
#[derive(Debug, Clone, Copy)]
struct Range {
    done: f64,
    rows: u64,
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

    /// A range was copied.
    pub(super) fn note(&self, rows: u64, took: Duration) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.ranges.push(Range { done: self.began.elapsed().as_secs_f64(), rows, took });
        log.rows += rows;
        if let Some(share) = self.extent.share
            && log.rows as f64 >= share * self.rows
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
    let end = log.iter().map(|range| range.done).fold(0.0, f64::max);
    let warm = (end * WARM_UP).min(LONGEST_WARM_UP);
    let middle = f64::midpoint(warm, end);
    let rate = |from: f64, to: f64| {
        let within = log.iter().filter(|range| range.done > from && range.done <= to);
        within.map(|range| range.rows).sum::<u64>() as f64 / (to - from).max(0.001)
    };
    copied.rows = log.iter().map(|range| range.rows).sum();
    copied.chunks = log.len() as u64;
    copied.seconds = end;
    copied.rows_per_second = rate(warm, end);
    let halves = [rate(warm, middle), rate(middle, end), copied.rows_per_second];
    // A half in which no range ended says nothing.
    let told = halves.into_iter().filter(|rate| *rate > 0.0);
    copied.slowest = told.reduce(f64::min).unwrap_or(0.0);
    copied.fastest = halves.into_iter().fold(0.0, f64::max);
    let times = Times::of(log.iter().map(|range| range.took));
    (copied.p50_ms, copied.p90_ms) = (times.p50_ms, times.p90_ms);
    (copied.p99_ms, copied.max_ms) = (times.p99_ms, times.max_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_does_not_count() {
        let range = |n: u32| Range {
            done: f64::from(n),
            rows: if n <= 2 { 10 } else { 1000 },
            took: Duration::from_millis(u64::from(n)),
        };
        let log: Vec<Range> = (1..=10).map(range).collect();
        let mut copied = Copied::default();
        sum_up(&log, &mut copied);
        assert_eq!((copied.rows, copied.chunks, copied.seconds), (8020, 10, 10.0));
        assert_eq!(copied.rows_per_second, 1000.0);
        assert_eq!((copied.slowest, copied.fastest), (1000.0, 1000.0));
        assert_eq!(copied.max_ms.round(), 10.0);
        sum_up(&[], &mut copied);
        assert_eq!((copied.rows, copied.rows_per_second), (0, 0.0));
    }

    #[tokio::test]
    async fn a_share_is_enough_once_it_is_reached() {
        let enough = CancellationToken::new();
        let extent = Extent { time: Duration::from_secs(3600), share: Some(0.05) };
        let clock = Clock::new(extent, 1000.0, enough.clone());
        clock.note(49, Duration::from_millis(1));
        assert!(!enough.is_cancelled());
        clock.note(1, Duration::from_millis(1));
        assert!(enough.is_cancelled());
    }
}
