//! How long to wait before a run goes on, and when to give up.

use std::time::{Duration, Instant};

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A stretch that lasted so long got somewhere: what comes next is another trouble.
const GOT_SOMEWHERE: Duration = Duration::from_secs(60);

/// What is left of the patience of one run.
pub(super) struct Patience {
    limit: Duration,
    since: Option<Instant>,
    failures: u32,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Patience {
        Patience { limit, since: None, failures: 0 }
    }

    /// How long to wait after a stretch that lasted so long; None where it went on for too long now.
    pub(super) fn pause(&mut self, lasted: Duration) -> Option<Duration> {
        if lasted > GOT_SOMEWHERE {
            (self.since, self.failures) = (None, 0);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.limit {
            return None;
        }
        let longest = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        // So that several runs of one server do not come back all at once.
        Some(longest.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_patience_ends() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..9).map(|_| patience.pause(short).unwrap()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(pauses[8] >= LONGEST / 2 && pauses[8] <= LONGEST, "{pauses:?}");
        assert!(patience.pause(2 * GOT_SOMEWHERE).unwrap() <= FIRST, "another trouble");
        let mut none = Patience::new(Duration::ZERO);
        assert_eq!(none.pause(short), None);
    }
}
