//! What held the copy back, and for how long: the sum of the decisions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::controller::{Decision, Reading, Reason};

/// By this name goes the time in which everybody rests for the application, whatever the decision is.
const MAKING_WAY: &str = "making way";

/// Kept by whoever decides, asked by whoever wants to know what that came to. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Account(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    sum: Sum,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    signal: Option<String>,
    /// The share of the speed that was not used.
    rest: f64,
    at: Instant,
    /// How long everybody had made way in all by then.
    hushed: Duration,
}

/// What the decisions came to since the account was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sum {
    /// In all.
    pub time: Duration,
    /// By what held the copy back: as much time as it did not work for that.
    pub rested: BTreeMap<String, Duration>,
    /// The greatest reading of each signal.
    pub greatest: BTreeMap<String, Reading>,
}

impl Account {
    /// What is in it; it is opened anew.
    pub fn close(&self) -> Sum {
        std::mem::take(&mut self.lock().sum)
    }

    /// A decision, which holds until the next one; `most` workers at full speed. By now everybody has made way for
    /// `hushed` in all.
    pub fn enter(
        &self,
        decision: &Decision,
        readings: &[Reading],
        most: usize,
        (hushed, now): (Duration, Instant),
    ) {
        let mut book = self.lock();
        let sum = &mut book.sum;
        for reading in readings {
            let before = sum.greatest.get(&reading.signal).map(|r| r.pressure);
            // What cannot be measured is worse than whatever was.
            let worse = |before: Option<f64>| match (reading.pressure, before) {
                (Some(now), Some(before)) => now > before,
                (now, _) => now.is_none(),
            };
            if before.is_none_or(worse) {
                sum.greatest.insert(reading.signal.clone(), reading.clone());
            }
        }
        if let Some(last) = book.last.take() {
            let time = now.duration_since(last.at);
            let way = hushed.saturating_sub(last.hushed).min(time);
            book.sum.time += time;
            let rested = &mut book.sum.rested;
            if !way.is_zero() {
                *rested.entry(MAKING_WAY.to_owned()).or_default() += way.mul_f64(1.0 - last.rest);
            }
            if let Some(signal) = last.signal {
                *rested.entry(signal).or_default() += time.mul_f64(last.rest);
            }
        }
        let speed = decision.workers as f64 * decision.duty / most.max(1) as f64;
        let signal = match &decision.reason {
            Reason::Free => None,
            Reason::Paused => Some("pause".to_owned()),
            Reason::HeldBack(r) | Reason::Stopped(r) | Reason::Blind(r) => Some(r.signal.clone()),
            Reason::Grows(since) => Some(since.clone().unwrap_or_else(|| "beginning".to_owned())),
        };
        book.last = Some(Last { signal, rest: (1.0 - speed).clamp(0.0, 1.0), at: now, hushed });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_put_down_to_what_took_it() {
        let (account, start) = (Account::default(), Instant::now());
        let reading = |pressure| Reading::of_standby("standby eu".into(), pressure, String::new());
        let decision = |workers, duty, reason| Decision { workers, duty, reason };
        let at = |seconds| (Duration::ZERO, start + Duration::from_secs(seconds));
        account.enter(&decision(2, 1.0, Reason::Free), &[reading(Some(0.1))], 2, at(0));
        let held = Reason::HeldBack(reading(Some(0.8)));
        account.enter(&decision(1, 0.5, held), &[reading(Some(0.8))], 2, at(4));
        account.enter(&decision(0, 0.0, Reason::Paused), &[reading(Some(0.3))], 2, at(8));
        account.enter(&decision(2, 1.0, Reason::Free), &[], 2, at(10));
        let sum = account.close();
        assert_eq!(sum.time.as_secs(), 10);
        let rested: Vec<_> = sum.rested.iter().map(|(n, t)| (n.as_str(), t.as_secs())).collect();
        assert_eq!(rested, [("pause", 2), ("standby eu", 3)]);
        assert_eq!(sum.greatest["standby eu"].pressure, Some(0.8));
        account.enter(&decision(2, 1.0, Reason::Free), &[reading(None)], 2, at(11));
        let sum = account.close();
        assert_eq!((sum.time.as_secs(), sum.greatest["standby eu"].pressure), (1, None));
    }

    #[test]
    fn who_makes_way_rests_for_that_only_as_far_as_it_would_have_worked() {
        let (account, start) = (Account::default(), Instant::now());
        let reading = Reading::of_others("probe", Some(0.8), String::new());
        let half = Decision { workers: 1, duty: 0.5, reason: Reason::HeldBack(reading) };
        let seconds = Duration::from_secs;
        account.enter(&half, &[], 1, (seconds(3), start));
        account.enter(&half, &[], 1, (seconds(5), start + seconds(10)));
        let sum = account.close();
        let rested: Vec<_> = sum.rested.iter().map(|(n, t)| (n.as_str(), t.as_secs())).collect();
        assert_eq!(rested, [(MAKING_WAY, 1), ("probe", 5)]);
    }
}
