//! How many transactions begin to write a second while we rest, against how many do while we work. As many as ever come,
//! whether we work or not: where more are done in our rests, those are the ones that had to wait while we worked.
//! That shows where all clients are at work all the time and their number says nothing any more
//! (measured: an application that had hardly anything free without us was five seconds late in the end, while each
//! of its sessions was as busy in calm as beside us).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::throttle::controller::{FeltBy, Reading};

/// Of so long, at work and at rest; a rest is short and seldom.
const AT_WORK: Duration = Duration::from_secs(8);
const AT_REST: Duration = Duration::from_secs(30);
/// Nobody of ours has worked for so long: what it had begun is done.
pub(super) const RESTED: Duration = Duration::from_millis(20);
/// Of less than this nothing can be said: so long, and so many in the rests.
const LEAST: Duration = Duration::from_millis(800);
const FEWEST: f64 = 300.0;
/// Two looks that are further apart say little of either.
const APART: Duration = Duration::from_millis(500);
/// How many times as many may be done in a rest.
const LIMIT: f64 = 1.25;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    work: Spans,
    rest: Spans,
    last: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    transaction: u64,
    rests: bool,
}

impl Backlog {
    /// The next transaction that writes will be this one, and whether ours rest.
    pub(super) fn looked(&mut self, transaction: u64, rests: bool, at: Instant) {
        let look = Look { at, transaction, rests };
        let Some(last) = self.last.replace(look) else { return };
        let took = at.duration_since(last.at);
        if last.rests != rests || took > APART {
            return;
        }
        let span = Span { at, took, done: transaction.saturating_sub(last.transaction) as f64 };
        if rests { &mut self.rest } else { &mut self.work }.0.push_back(span);
        self.work.forget(at, AT_WORK);
        self.rest.forget(at, AT_REST);
    }

    /// Nothing where too few write.
    pub(super) fn reading(&self, anybody: bool) -> Option<Reading> {
        let (beside, rest) = (self.work.rate(0.0)?, self.rest.rate(FEWEST)?);
        let share = (rest / beside.max(1.0) - 1.0).max(0.0) / (LIMIT - 1.0);
        let (pressure, text) = match anybody {
            true => (
                share,
                format!(
                    "{beside:.0} transactions a second write beside us, {rest:.0} while we rest"
                ),
            ),
            false => (0.0, "nobody else is at work".to_owned()),
        };
        let signal = "backlog".to_owned();
        Some(Reading { felt_by: FeltBy::of(anybody), signal, pressure: Some(pressure), text })
    }
}

#[derive(Debug)]
struct Span {
    at: Instant,
    took: Duration,
    done: f64,
}

#[derive(Debug, Default)]
struct Spans(VecDeque<Span>);

impl Spans {
    fn forget(&mut self, now: Instant, after: Duration) {
        while self.0.front().is_some_and(|span| now.duration_since(span.at) > after) {
            self.0.pop_front();
        }
    }

    /// A second, where there were so many.
    fn rate(&self, fewest: f64) -> Option<f64> {
        let took: Duration = self.0.iter().map(|span| span.took).sum();
        let done: f64 = self.0.iter().map(|span| span.done).sum();
        (took >= LEAST && done >= fewest).then(|| done / took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// What presses after some seconds in which so many are done each 20 ms beside us, and while we rest, which is for
    /// 0.4 of each 4 s.
    fn pressure(beside: u64, resting: u64) -> Option<f64> {
        let (mut backlog, start, mut transaction) = (Backlog::default(), Instant::now(), 1000);
        for look in 0..1000u64 {
            let rests = look % 200 >= 180;
            transaction += if rests { resting } else { beside };
            backlog.looked(transaction, rests, start + MS(look * 20));
        }
        backlog.reading(true)?.pressure
    }

    #[test]
    fn what_is_done_in_our_rests_had_to_wait_for_us() {
        assert_eq!(pressure(40, 40), Some(0.0));
        let some = pressure(40, 45).unwrap();
        assert!((0.49..0.51).contains(&some), "{some}");
        assert!(pressure(40, 60).unwrap() > 1.9);
        assert_eq!(pressure(40, 30), Some(0.0), "it has less to do just now");
    }

    #[test]
    fn of_few_nothing_is_said() {
        assert_eq!(pressure(1, 1), None);
        assert!(pressure(0, 40).unwrap() > 3.0, "nothing is done at all beside us");
        assert!(Backlog::default().reading(true).is_none());
    }

    #[test]
    fn a_look_that_comes_late_says_nothing() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        for look in 0..10u64 {
            backlog.looked(look * 1000, look % 2 == 0, start + MS(look * 600));
        }
        assert!(backlog.work.0.is_empty() && backlog.rest.0.is_empty());
    }
}
