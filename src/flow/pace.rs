//! How large ranges are: as many rows as take the time, or write the log, that one should.

use std::time::Duration;

/// How large the next range should be.
#[derive(Debug, Clone)]
pub struct Pace {
    target: Duration,
    /// Of the target, where there is little time to work.
    share: f64,
    most_wal: u64,
    /// What the time says. It may be less than any range has: forgotten, each share that grows again would
    /// grow from the fewest.
    wanted: f64,
    fewest: i64,
}

impl Pace {
    const FEWEST: i64 = 100;
    const MOST: i64 = 2_000_000;

    /// Starts with `rows` and aims at `target` a range, and at `most_wal` bytes of log.
    pub fn new(rows: i64, target: Duration, most_wal: u64) -> Self {
        let rows = rows.clamp(1, Self::MOST);
        let fewest = Self::FEWEST.min(rows);
        Pace { target, share: 1.0, most_wal, wanted: rows as f64, fewest }
    }

    /// One range for everything.
    pub fn whole() -> Self {
        let all = Duration::MAX;
        Pace { target: all, share: 1.0, most_wal: u64::MAX, wanted: f64::MAX, fewest: i64::MAX }
    }

    /// Rows of the next range.
    pub fn rows(&self) -> i64 {
        (self.wanted as i64).max(self.fewest)
    }

    /// Aims at another time a range from now on.
    pub fn aim(&mut self, target: Duration) {
        if self.target != Duration::MAX {
            self.target = target;
        }
    }

    /// The next range takes only this share of its time: what is seldom should not be much at once.
    pub fn take_a_share(&mut self, share: f64) {
        if self.target != Duration::MAX && share != self.share {
            self.want(self.wanted * share / self.share);
            self.share = share;
        }
    }

    /// Learns from a range of `rows`, wanted or not, that took `took` and wrote `wal` bytes. Grows at most twofold,
    /// so that one lucky range does not make a huge one; shrinks at once.
    pub fn learn(&mut self, rows: i64, took: Duration, wal: u64) {
        if rows < self.rows() / 2 {
            return; // The last range, or a gap: says nothing of speed.
        }
        let by_time = self.target.as_secs_f64() * self.share / took.as_secs_f64().max(1e-6);
        let by_wal = self.most_wal as f64 / (wal as f64).max(1.0);
        self.want(rows as f64 * by_time.min(by_wal).clamp(0.1, 2.0));
    }

    fn want(&mut self, rows: f64) {
        self.wanted = rows.clamp(1.0, Self::MOST as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_slowly_and_shrink_at_once() {
        let mut pace = Pace::new(1000, Duration::from_millis(500), 64 << 20);
        pace.learn(1000, Duration::from_millis(10), 1 << 20);
        assert_eq!(pace.rows(), 2000);
        pace.learn(2000, Duration::from_secs(5), 1 << 20);
        assert_eq!(pace.rows(), 200);
        pace.learn(200, Duration::from_millis(100), 640 << 20);
        assert_eq!(pace.rows(), 100, "the log's limit counts too, but no range is tiny");
        pace.learn(3, Duration::from_nanos(0), 0);
        assert_eq!(pace.rows(), 100, "the last range teaches nothing");
    }

    #[test]
    fn a_share_that_comes_and_goes_makes_no_range_larger() {
        let mut pace = Pace::new(500, Duration::from_millis(500), u64::MAX);
        for _ in 0..3 {
            pace.take_a_share(0.01);
            assert_eq!(pace.rows(), 100);
            pace.take_a_share(0.1);
            assert_eq!(pace.rows(), 100);
        }
        pace.take_a_share(1.0);
        assert!((499..=500).contains(&pace.rows()), "{}", pace.rows());
    }
}
