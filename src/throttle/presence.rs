//! Who is at a valve: waits or rests there, or works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Who ended a range is back for the next one within this.
const BACK: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    there: usize,
    left: Option<Instant>,
    working: usize,
    idle: Option<Instant>,
}

/// Somebody who is there until this is dropped; waits at first.
#[must_use = "who works is there until this is dropped"]
pub struct There {
    presence: Presence,
    works: bool,
}

impl There {
    pub(super) fn works(mut self) -> Self {
        if !self.works {
            self.presence.lock().working += 1;
            self.works = true;
        }
        self
    }
}

impl Drop for There {
    fn drop(&mut self) {
        if self.works {
            self.presence.rest();
        }
        let mut state = self.presence.lock();
        state.there -= 1;
        state.left = Some(Instant::now());
    }
}

/// Somebody who works, and rests until this is dropped.
pub(super) struct Rest(Presence);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.lock().working += 1;
    }
}

impl Presence {
    pub(super) fn come(&self) -> There {
        self.lock().there += 1;
        There { presence: self.clone(), works: false }
    }

    /// Of one who works.
    pub(super) fn rests(&self) -> Rest {
        self.rest();
        Rest(self.clone())
    }

    /// Whether somebody is there.
    pub fn is_used(&self) -> bool {
        let state = self.lock();
        state.there > 0 || state.left.is_some_and(|at| at.elapsed() < BACK)
    }

    /// How long nobody has worked, where somebody is there or nobody was yet; None while somebody works.
    pub fn idle_for(&self) -> Option<Duration> {
        let used = self.is_used();
        let state = self.lock();
        match (state.working, state.idle) {
            (0, Some(idle)) if used => Some(idle.elapsed()),
            (0, None) => Some(Duration::MAX),
            _ => None,
        }
    }

    fn rest(&self) {
        let mut state = self.lock();
        state.working = state.working.saturating_sub(1);
        state.idle = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_works_while_all_wait_or_rest() {
        let (presence, ms) = (Presence::default(), Duration::from_millis);
        assert_eq!(presence.idle_for(), Some(Duration::MAX), "nobody has worked yet");
        let (one, other) = (presence.come().works(), presence.come());
        assert_eq!(presence.idle_for(), None);
        let rest = presence.rests();
        tokio::time::sleep(ms(20)).await;
        assert_eq!(presence.idle_for(), Some(ms(20)));
        drop(rest);
        assert_eq!(presence.idle_for(), None);
        let other = other.works();
        drop(one);
        assert_eq!(presence.idle_for(), None, "the other works");
        drop(other);
        assert_eq!(presence.idle_for(), Some(Duration::ZERO));
        tokio::time::sleep(BACK).await;
        assert_eq!(
            presence.idle_for(),
            None,
            "something else goes on, of which nothing is known here"
        );
    }
}
