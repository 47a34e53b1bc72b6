//! How long to wait before a run goes on, and when to give up.

use std::time::{Duration, Instant};

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A stretch that lasted so long got somewhere: what comes next is another trouble.
const GOT_SOMEWHERE: Duration = Duration::from_secs(60);

/// How much of its patience one run has used up.
#[derive(Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    failures: u32,
}

impl Patience {
    /// How long to wait after a stretch that lasted so long; None where it went on for longer than `limit` now.
    pub(super) fn pause(&mut self, limit: Duration, lasted: Duration) -> Option<Duration> {
        if lasted > GOT_SOMEWHERE {
            (self.since, self.failures) = (None, 0);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= limit {
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
        let (mut patience, minute) = (Patience::default(), Duration::from_secs(60));
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..9).map(|_| patience.pause(minute, short).unwrap()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(pauses[8] >= LONGEST / 2 && pauses[8] <= LONGEST, "{pauses:?}");
        assert!(patience.pause(minute, 2 * GOT_SOMEWHERE).unwrap() <= FIRST, "another trouble");
        assert_eq!(patience.pause(Duration::ZERO, short), None);
    }
}
