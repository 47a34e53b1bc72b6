//! How many transactions that write are done a second while we rest, against how many were beside us just before. As many
//! as ever come, whether we work or not: where more are done in our rests, those are the ones that had to wait while we
//! worked. That shows where all clients are at work all the time and their number says nothing any more
//! (measured: an application that had hardly anything free without us was five seconds late in the end, while each
//! of its sessions was as busy in calm as beside us).
//!
//! They are counted by the transaction ids that are given out, ours among them, which are few. What comes over a moment
//! of one sort shows in that moment alone: each rest is held against the seconds before it, and of several the one in
//! the middle counts. And it is news once: the copy that gets slower by it, is faster or slower than it was only when
//! the next rest has shown what became of it.

use std::time::{Duration, Instant};

use super::lately::Lately;
use crate::throttle::controller::{FELT, Reading};
use crate::throttle::limits::Limits;

/// Before a rest.
const BESIDE: Duration = Duration::from_secs(2);
/// Of less than this nothing can be said: so long, and so many.
const LEAST_BESIDE: Duration = Duration::from_millis(500);
const LEAST_REST: Duration = Duration::from_millis(150);
const FEWEST: f64 = 40.0;
/// Two looks that are further apart say little of either.
const APART: Duration = Duration::from_millis(300);
/// So many rests, the last ones, of so long.
const RESTS: usize = 5;
const REMEMBERED: Duration = Duration::from_secs(45);
/// With fewer it may be chance.
const FEWEST_RESTS: usize = 3;
/// What a rest showed is news for so long, a few decisions of the controller.
const NEWS: Duration = Duration::from_millis(1250);

#[derive(Debug, Default)]
pub(super) struct Backlog {
    beside: Lately<Span>,
    /// Of the rest that goes on.
    rest: Span,
    /// When each rest ended, and how many times as many were done in it.
    ratios: Lately<f64>,
    last: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    transaction: u64,
    rests: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Span {
    took: Duration,
    done: f64,
}

impl Span {
    fn and(self, other: &Span) -> Span {
        Span { took: self.took + other.took, done: self.done + other.done }
    }

    /// A second.
    fn rate(self) -> f64 {
        self.done / self.took.as_secs_f64()
    }
}

impl Backlog {
    /// The last transaction that was done is the one before this, and whether ours rest.
    pub(super) fn looked(&mut self, transaction: u64, rests: bool, at: Instant) {
        let Some(last) = self.last.replace(Look { at, transaction, rests }) else { return };
        let took = at.duration_since(last.at);
        if last.rests && !rests {
            self.rest_ended(last.at, at);
        }
        if last.rests != rests || took > APART {
            return;
        }
        let span = Span { took, done: transaction.saturating_sub(last.transaction) as f64 };
        if rests {
            self.rest = self.rest.and(&span);
        } else {
            self.beside.note(at, span);
            self.beside.forget(at, BESIDE);
        }
    }

    fn rest_ended(&mut self, end: Instant, now: Instant) {
        let rest = std::mem::take(&mut self.rest);
        let began = end.checked_sub(rest.took).unwrap_or(end);
        let beside = self.beside.within(began, BESIDE).fold(Span::default(), Span::and);
        self.beside.clear();
        if rest.took < LEAST_REST || beside.took < LEAST_BESIDE || rest.done < FEWEST {
            return;
        }
        self.ratios.note(now, rest.rate() / beside.rate().max(1.0));
        self.ratios.forget(now, REMEMBERED);
    }

    /// Nothing where too few write.
    pub(super) fn reading(&self, anybody: bool, limits: &Limits, now: Instant) -> Option<Reading> {
        let mut ratios: Vec<f64> =
            self.ratios.within(now, REMEMBERED).take(RESTS).copied().collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = *ratios.get(ratios.len() / 2).filter(|_| ratios.len() >= FEWEST_RESTS)?;
        let limit = limits.backlog_factor;
        let share = (ratio - 1.0).max(0.0) / (limit - 1.0);
        let news = self.ratios.last().is_some_and(|at| now.duration_since(at) <= NEWS);
        let pressure = if news { share } else { share.min(FELT * 0.9) };
        Some(Reading::of_application("backlog", anybody, Some(pressure), || {
            format!("{ratio:.2} of {limit:.2} times as many transactions are done while we rest")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// The highest pressure in the second half of `seconds`, where the application's load at a time is so many each 20 ms,
    /// of which beside us only so many can be done, and while we rest, 0.4 of each 4 s, so many.
    fn pressure(seconds: u64, load: impl Fn(u64) -> u64, beside: u64, resting: u64) -> Option<f64> {
        let (mut backlog, start, mut transaction) = (Backlog::default(), Instant::now(), 1000);
        let (mut waiting, mut most) = (0, None);
        for look in 0..seconds * 50 {
            let rests = look % 200 >= 180;
            waiting += load(look * 20);
            let done = waiting.min(if rests { resting } else { beside });
            (waiting, transaction) = (waiting - done, transaction + done);
            let now = start + MS(look * 20);
            backlog.looked(transaction, rests, now);
            if look > seconds * 25 {
                let pressure =
                    backlog.reading(true, &Limits::default(), now).and_then(|r| r.pressure);
                most = most.max(pressure.map(|p| (p * 1000.0) as u64));
            }
        }
        most.map(|p| p as f64 / 1000.0)
    }

    #[test]
    fn what_is_done_in_our_rests_had_to_wait_for_us() {
        assert_eq!(pressure(60, |_| 40, 50, 50), Some(0.0), "nobody has to wait");
        let over = pressure(60, |_| 42, 40, 60).unwrap();
        assert!((1.0..2.1).contains(&over), "{over}");
    }

    #[test]
    fn an_application_that_does_more_or_less_than_before_is_not_hurt() {
        let falls = pressure(60, |ms| if ms < 45_000 { 40 } else { 20 }, 90, 90).unwrap();
        let waves = pressure(120, |ms| if ms % 20_000 < 10_000 { 40 } else { 25 }, 90, 90).unwrap();
        let burst = pressure(60, |ms| if (47_500..48_500).contains(&ms) { 90 } else { 20 }, 90, 90);
        assert!(
            falls < FELT && waves < FELT && burst.unwrap() < FELT,
            "{falls}, {waves}, {burst:?}"
        );
    }

    #[test]
    fn of_few_nothing_is_said() {
        assert_eq!(pressure(60, |_| 1, 9, 9), None);
        assert!(Backlog::default().reading(true, &Limits::default(), Instant::now()).is_none());
    }

    /// Else the speed would fall on and on by the same.
    #[test]
    fn it_is_news_once() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        (0..3).for_each(|_| backlog.ratios.note(start, 1.5));
        let at = |ms| {
            backlog.reading(true, &Limits::default(), start + MS(ms)).unwrap().pressure.unwrap()
        };
        assert!(at(1_000) > 1.9 && at(2_000) < FELT, "{} {}", at(1_000), at(2_000));
    }

    #[test]
    fn looks_that_are_far_apart_say_nothing() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        for look in 0..100u64 {
            backlog.looked(look * 1000, look % 20 > 15, start + MS(look * 400));
        }
        assert_eq!(backlog.ratios.last(), None);
    }
}
