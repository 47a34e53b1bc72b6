//! What was seen lately, each with when it was: no more is kept than of some time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The oldest first.
#[derive(Debug)]
pub(super) struct Lately<T>(VecDeque<(Instant, T)>);

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Lately(VecDeque::new())
    }
}

impl<T> Lately<T> {
    pub(super) fn note(&mut self, at: Instant, seen: T) {
        self.0.push_back((at, seen));
    }

    pub(super) fn forget(&mut self, now: Instant, after: Duration) {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > after) {
            self.0.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What was seen within so long, the newest first.
    pub(super) fn within(&self, now: Instant, span: Duration) -> impl Iterator<Item = &T> {
        let recent = move |(at, _): &&(Instant, T)| now.saturating_duration_since(*at) <= span;
        self.0.iter().rev().take_while(recent).map(|(_, seen)| seen)
    }

    /// When something was seen last.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_is_neither_told_nor_kept() {
        let (mut lately, start) = (Lately::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        (0..10).for_each(|n| lately.note(at(n), n));
        let within: Vec<u64> = lately.within(at(10), Duration::from_secs(3)).copied().collect();
        assert_eq!(within, [9, 8, 7]);
        lately.forget(at(10), Duration::from_secs(5));
        assert_eq!((lately.0.len(), lately.last()), (5, Some(at(9))));
    }
}
