//! When all of ours rest: where the copy shares the server with the application, what that takes in such a rest is not
//! our doing, and it is what it is held against.

use std::time::{Duration, Instant};

/// Nobody works for so long, each so often.
const HUSH: Duration = Duration::from_millis(400);
const EACH: Duration = Duration::from_secs(4);
/// It is asked again in about the time since it was asked last, but for so long.
const LATE: Duration = Duration::from_millis(150);
/// Where the application has a queue before it, it goes on until that is gone, but for so long. An application that is
/// busier than it was looks the same.
const LONGEST: Duration = Duration::from_secs(4);
/// And the next one comes after so many times as long as this one took.
const BETWEEN: u32 = 3;

#[derive(Debug)]
pub struct Hushes {
    began: Instant,
    /// Of the one that goes on, or was the last.
    until: Instant,
    /// When it was asked last.
    asked: Instant,
}

impl Hushes {
    pub fn new(now: Instant) -> Self {
        Hushes { began: now, until: now, asked: now }
    }

    /// For how long everybody should rest from now on, if so: long enough to be asked again meanwhile.
    pub fn next(&mut self, drains: bool, now: Instant) -> Option<Duration> {
        let time = HUSH.max(now.duration_since(self.asked) + LATE);
        self.asked = now;
        let goes_on = self.began < self.until
            && now <= self.until
            && drains
            && now.duration_since(self.began) < LONGEST;
        let pause = EACH.max(self.until.duration_since(self.began) * BETWEEN);
        let due = now.saturating_duration_since(self.until) + HUSH >= pause;
        if due {
            self.began = now;
        }
        (due || goes_on).then(|| {
            self.until = now + time;
            time
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// When hushes were asked for, of so many looks four times a second; what drains, by the time in milliseconds.
    fn asked(looks: u64, drains: impl Fn(u64) -> bool) -> Vec<u64> {
        let start = Instant::now();
        let mut hushes = Hushes::new(start);
        let at = |look| look * 250;
        (0..looks)
            .map(at)
            .filter(|ms| hushes.next(drains(*ms), start + MS(*ms)).is_some())
            .collect()
    }

    #[test]
    fn it_is_short_and_seldom() {
        assert_eq!(asked(40, |_| false), [3_750, 7_750]);
    }

    #[test]
    fn it_goes_on_while_a_queue_is_left() {
        assert_eq!(asked(24, |ms| ms < 4_500), [3_750, 4_000, 4_250]);
    }

    /// Where each look takes long.
    #[test]
    fn it_goes_on_where_it_is_seldom_asked() {
        let start = Instant::now();
        let mut hushes = Hushes::new(start);
        let hushed = |look: &u64| hushes.next(*look < 14, start + MS(look * 600)).is_some();
        let all: Vec<u64> = (0..20).filter(hushed).collect();
        assert_eq!(all, [6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn an_application_that_is_busier_now_does_not_hold_it_up_for_good() {
        let all = asked(120, |_| true);
        assert_eq!(all.first(), Some(&3_750));
        assert_eq!(all.iter().filter(|ms| **ms < 16_000).max(), Some(&7_500));
        assert!((30..40).contains(&all.len()), "a quarter of the time: {all:?}");
    }
}
