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
        Timings(Timed::ALL.map(|_| Histogram::new_with_bounds(1, LONGEST, DIGITS).ok()))
    }

    pub(super) fn record(&mut self, what: Timed, took: Duration) {
        if let Some(times) = &mut self.0[what as usize] {
            let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
            times.saturating_record(micros.max(1));
        }
    }

    pub(super) fn of(&self, what: Timed) -> Times {
        let Some(times) = &self.0[what as usize] else { return Times::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

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
