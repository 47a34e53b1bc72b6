//! What the operator hears of the throttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::throttle::controller::{Decision, Reason};

/// The same reason is told again only after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// It may be gone in a moment.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// Why it goes as fast as it does, in a few words.
pub(super) fn told(reason: &Reason) -> String {
    match reason {
        Reason::Free => "nothing holds it back".to_owned(),
        Reason::Paused => "paused by the operator".to_owned(),
        Reason::HeldBack(r) => format!("held back by {}: {}", r.signal, r.text),
        Reason::Grows(Some(signal)) => {
            format!("becoming faster again, after {signal} held it back")
        }
        Reason::Grows(None) => {
            "beginning slowly, becoming faster until somebody feels it".to_owned()
        }
        Reason::Stopped(r) => format!("it waits for {}: {}", r.signal, r.text),
        Reason::Blind(r) => {
            format!("it waits, since {} cannot be measured: {}", r.signal, r.text)
        }
    }
}

/// Counts what is at work that nothing slows down or pauses.
#[derive(Debug, Clone, Default)]
pub(super) struct Unthrottled(Arc<AtomicUsize>);

impl Unthrottled {
    /// Such a thing begins; it ends when what is returned is dropped.
    pub(super) fn begin(&self) -> impl Drop + use<> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ending(Arc::clone(&self.0))
    }

    /// What is told of the throttle meanwhile must not say that anybody waits.
    pub(super) fn qualify(&self, told: String, reason: &Reason) -> String {
        let rests = matches!(reason, Reason::Paused | Reason::Stopped(_) | Reason::Blind(_));
        match self.0.load(Ordering::SeqCst) > 0 && rests {
            true => format!("{told}; but what is being built goes on, and cannot be paused"),
            false => told,
        }
    }
}

struct Ending(Arc<AtomicUsize>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says what holds the copy up, once it lasts, and when it is over.
#[derive(Default)]
pub(super) struct Voice {
    /// What holds it up now, and since when; whether that was told, and when.
    held: Option<(String, Instant)>,
    told: Option<(String, Instant)>,
}

impl Voice {
    /// What is to be told now, if anything.
    pub(super) fn says(&mut self, decision: &Decision, now: Instant) -> Option<String> {
        let gist = match &decision.reason {
            // Slower for a while, as it should be: the progress shows it.
            Reason::Free | Reason::HeldBack(_) | Reason::Grows(_) => {
                self.held = None;
                return self.told.take().map(|_| "it goes on".to_owned());
            }
            Reason::Paused => "paused".to_owned(),
            Reason::Stopped(r) | Reason::Blind(r) => r.signal.clone(),
        };
        let since = match &self.held {
            Some((held, since)) if *held == gist => *since,
            _ => now,
        };
        self.held = Some((gist.clone(), since));
        let is_told = self
            .told
            .as_ref()
            .is_some_and(|(before, at)| *before == gist && now.duration_since(*at) < TELL_AGAIN);
        if is_told || decision.reason != Reason::Paused && now.duration_since(since) < WORTH_TELLING
        {
            return None;
        }
        self.told = Some((gist, now));
        Some(told(&decision.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::controller::Reading;

    #[test]
    fn what_is_being_built_is_not_said_to_wait() {
        let unthrottled = Unthrottled::default();
        let told = |reason| unthrottled.qualify(told(&reason), &reason);
        let building = unthrottled.begin();
        assert!(told(Reason::Paused).contains("goes on"));
        assert_eq!(told(Reason::Free), "nothing holds it back");
        drop(building);
        assert_eq!(told(Reason::Paused), "paused by the operator");
    }

    #[test]
    fn what_lasts_is_told_once_a_minute_and_that_it_is_over() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        let reading = Reading::of_standby("standby eu2".into(), Some(2.0), "4.0 of 2 s".into());
        let decision = |reason| Decision { workers: 0, duty: 0.0, reason };
        let mut at = |seconds, reason: &Reason| {
            voice.says(&decision(reason.clone()), start + Duration::from_secs(seconds))
        };
        let stopped = Reason::Stopped(reading);
        assert_eq!(at(0, &stopped), None);
        assert_eq!(at(2, &stopped).unwrap(), "it waits for standby eu2: 4.0 of 2 s");
        assert_eq!(at(30, &stopped), None);
        assert!(at(62, &stopped).is_some());
        assert_eq!(at(63, &Reason::Free).unwrap(), "it goes on");
        assert_eq!(at(64, &Reason::Free), None);
        assert_eq!(at(65, &Reason::Paused).unwrap(), "paused by the operator");
    }
}
