//! How long each kind of thing took, without keeping every time.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::sample::Timed;

/// What takes longer counts as this long: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;
/// Digits that are kept of a time.
const DIGITS: u8 = 3;

/// The times of everything that is timed.
pub(super) struct Timings([Option<Histogram<u64>>; Timed::ALL.len()]);

/// What the times of one kind come to.
#[derive(Debug, Default, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Times {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Timings {
    pub(super) fn new() -> Self {
        Timings(Timed::ALL.map(|_| histogram()))
    }

    pub(super) fn record(&mut self, what: Timed, took: Duration) {
        if let Some(times) = &mut self.0[what as usize] {
            record(times, took);
        }
    }

    pub(super) fn of(&self, what: Timed) -> Times {
        self.0[what as usize].as_ref().map(Times::in_all).unwrap_or_default()
    }
}

fn histogram() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).ok()
}

fn record(times: &mut Histogram<u64>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
    times.saturating_record(micros.max(1));
}

impl Times {
    /// What these come to.
    pub fn of(all: impl IntoIterator<Item = Duration>) -> Times {
        let Some(mut times) = histogram() else { return Times::default() };
        all.into_iter().for_each(|took| record(&mut times, took));
        Times::in_all(&times)
    }

    fn in_all(times: &Histogram<u64>) -> Times {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Times {
            count: times.len(),
            p50_ms: ms(times.value_at_quantile(0.5)),
            p90_ms: ms(times.value_at_quantile(0.9)),
            p99_ms: ms(times.value_at_quantile(0.99)),
            max_ms: ms(times.max()),
        }
    }
}

/// Upper bounds in seconds: a fence takes half a millisecond, a chunk half a second, and what is late takes
/// minutes.
const BOUNDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// The times of one kind, counted by how long they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets {
    counts: [u64; BOUNDS.len() + 1],
    /// Seconds.
    pub(super) sum: f64,
}

impl Buckets {
    pub(super) fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.sum += seconds;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bound and count of each.
    pub(super) fn all(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_where_they_belong() {
        let mut buckets = Buckets::default();
        for ms in [0, 1, 2, 500, 501, 1_000_000] {
            buckets.record(Duration::from_millis(ms));
        }
        let counted: Vec<_> = buckets.all().into_iter().filter(|(_, count)| *count > 0).collect();
        let places: Vec<f64> = counted.iter().map(|(bound, _)| *bound).collect();
        assert_eq!(places, [0.0005, 0.001, 0.0025, 0.5, 1.0, f64::INFINITY]);
        assert_eq!((buckets.count(), buckets.sum.round()), (6, 1001.0));
    }

    #[test]
    fn each_kind_has_its_own_times() {
        let mut timings = Timings::new();
        for ms in 1..=1000 {
            timings.record(Timed::Sync, Duration::from_millis(ms));
        }
        timings.record(Timed::Stall, Duration::from_secs(100_000));
        let near = |found: f64, wanted: f64| (found / wanted - 1.0).abs() < 0.01;
        let sync = timings.of(Timed::Sync);
        assert_eq!(sync.count, 1000);
        for (found, wanted) in [
            (sync.p50_ms, 500.0),
            (sync.p90_ms, 900.0),
            (sync.p99_ms, 990.0),
            (sync.max_ms, 1000.0),
        ] {
            assert!(near(found, wanted), "{sync:?}");
        }
        assert!(near(timings.of(Timed::Stall).max_ms, 3_600_000.0));
        assert_eq!(timings.of(Timed::Fence), Times::default());
    }

    #[test]
    fn every_kind_has_its_place() {
        assert!(Timed::ALL.iter().enumerate().all(|(place, what)| *what as usize == place));
    }
}
