//! When the server had written its log up to where: tells how old a position is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pg::Lsn;

/// So many are kept: some minutes at four a second. An older position counts as as old as the oldest.
const MOST: usize = 2400;
/// Over less than this a rate says nothing: the server writes its log in spurts.
const SHORTEST: Duration = Duration::from_millis(200);

/// Positions of the log, as they were read one after another.
#[derive(Debug, Default)]
pub(super) struct Positions(VecDeque<(Instant, Lsn)>);

impl Positions {
    pub(super) fn note(&mut self, now: Instant, written: Lsn) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((now, written));
    }

    /// How long ago the server first had more than that. By the server's own reports of `replay_lag` a
    /// standby that is frozen stays where it was when it last spoke.
    pub(super) fn age(&self, position: Lsn, now: Instant) -> Duration {
        let beyond = self.0.iter().find(|(_, written)| *written > position);
        beyond.map_or(Duration::ZERO, |(at, _)| now.duration_since(*at))
    }

    /// Since when the last position is what it is.
    pub(super) fn since(&self) -> Option<Instant> {
        let (_, last) = self.0.back()?;
        let same = self.0.iter().rev().take_while(|(_, position)| position == last);
        same.last().map(|(at, _)| *at)
    }

    /// Bytes written a second, over the last `span`, or as long as is known where that is less; None where it is
    /// too short to tell.
    pub(super) fn rate(&self, span: Duration) -> Option<f64> {
        let (last, end) = self.0.back()?;
        let before = self.0.iter().rev().find(|(at, _)| last.duration_since(*at) >= span);
        let (first, begin) = before.or_else(|| self.0.front())?;
        let known = last.duration_since(*first);
        (known >= SHORTEST).then(|| end.bytes_since(*begin) as f64 / known.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_as_old_as_what_came_right_behind_it() {
        let (mut positions, start) = (Positions::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(positions.age(Lsn(5), at(0)), Duration::ZERO);
        for (seconds, written) in [(0, 100), (1, 100), (2, 300), (3, 700)] {
            positions.note(at(seconds), Lsn(written));
        }
        assert_eq!(positions.age(Lsn(700), at(9)), Duration::ZERO, "nothing came behind it");
        assert_eq!(positions.age(Lsn(300), at(9)).as_secs(), 6);
        assert_eq!(positions.age(Lsn(150), at(9)).as_secs(), 7);
        assert_eq!(positions.age(Lsn(1), at(9)).as_secs(), 9, "older than all that is known");
        assert_eq!(positions.since(), Some(at(3)));
        positions.note(at(4), Lsn(700));
        assert_eq!(positions.since(), Some(at(3)), "it did not move");
        positions.0.pop_back();
        assert_eq!(positions.rate(Duration::from_secs(2)), Some(300.0));
    }

    #[test]
    fn a_rate_is_known_before_its_span_is_over() {
        let (mut positions, start) = (Positions::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = |ms, written| {
            positions.note(at(ms), Lsn(written));
            positions.rate(Duration::from_secs(2))
        };
        assert_eq!((rate(0, 0), rate(100, 1_000)), (None, None), "too short to tell");
        assert_eq!(rate(250, 1_000), Some(4_000.0));
        assert_eq!(rate(2_000, 6_000), Some(3_000.0));
        assert_eq!(rate(2_250, 10_000), Some(4_500.0), "over the last two seconds alone");
    }

    #[test]
    fn no_more_is_kept_than_some_minutes() {
        let (mut positions, start) = (Positions::default(), Instant::now());
        for n in 0..MOST as u64 + 10 {
            positions.note(start + Duration::from_secs(n), Lsn(n));
        }
        assert_eq!(positions.0.len(), MOST);
    }
}
