//! A limit of bytes a second.

use std::time::{Duration, Instant};

/// What may pass at once after a rest is worth so much time: less than anybody would notice.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Bucket {
        Bucket { rate: bytes_per_second as f64, tokens: 0.0, filled: now }
    }

    /// How many of `wanted` bytes may pass now; they are taken. Few are not worth the trouble, as long as there
    /// may be more.
    pub(super) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled);
        let most = (self.rate * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + self.rate * since.as_secs_f64()).min(most);
        self.filled = now;
        let taken = wanted.min(self.tokens as usize);
        if taken < wanted.min(most as usize / 4) {
            return 0;
        }
        self.tokens -= taken as f64;
        taken
    }

    /// Those that did not pass after all.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.tokens += bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_than_the_rate_and_hardly_less() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000_000, start);
        let mut passed = 0;
        for millis in 0..=2000 {
            passed += bucket.take(64 << 10, start + Duration::from_millis(millis));
        }
        assert!((1_990_000..=2_000_000).contains(&passed), "{passed}");
        // A rest is no credit.
        let late = start + Duration::from_secs(60);
        assert_eq!(bucket.take(1 << 20, late), 20_000);
        bucket.give_back(4_999);
        assert_eq!(bucket.take(1 << 20, late), 0, "not worth the trouble");
        assert_eq!(bucket.take(100, late), 100);
        bucket.give_back(101);
        assert_eq!(bucket.take(1 << 20, late), 5_000);
        assert_eq!(bucket.take(10, late + BURST), 10, "no more than is wanted");
    }
}
