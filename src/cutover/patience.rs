//! How long to go on trying.

use std::time::Duration;

use tokio::time::Instant;

use super::look::Obstacle;
use crate::throttle::valve::Valve;

/// Patience that runs out; but not by what the tool does to itself: where changed keys wait because a standby holds
/// their sync back, nobody is in the way whom the operator could ask to go, and giving up would only begin it anew.
pub(super) struct Patience<'a> {
    /// As it is by now.
    limit: &'a (dyn Fn() -> Duration + Sync),
    since: Instant,
    /// Of those who sync, where somebody does.
    valve: Option<&'a Valve>,
    /// How long that had been scarce as this try began.
    scarce: Duration,
    /// What is not counted.
    spared: Duration,
}

impl<'a> Patience<'a> {
    pub(super) fn new(limit: &'a (dyn Fn() -> Duration + Sync), valve: Option<&'a Valve>) -> Self {
        let scarce = valve.map(Valve::scarce_for).unwrap_or_default();
        Patience { limit, since: Instant::now(), valve, scarce, spared: Duration::ZERO }
    }

    /// All of it is there again.
    pub(super) fn begin_anew(&mut self) {
        *self = Patience::new(self.limit, self.valve);
    }

    /// A try is over, and this was in the way.
    pub(super) fn met(&mut self, obstacle: &Obstacle) {
        let scarce = self.valve.map(Valve::scarce_for).unwrap_or_default();
        if obstacle.keys_wait {
            self.spared += scarce.saturating_sub(self.scarce);
        }
        self.scarce = scarce;
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        (self.limit() + self.spared).saturating_sub(self.since.elapsed())
    }

    pub(super) fn limit(&self) -> Duration {
        (self.limit)()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::throttle::controller::{Decision, Reading, Reason};

    #[tokio::test(start_paused = true)]
    async fn it_does_not_run_out_while_sync_is_held_back() {
        let (valve, second) = (Valve::default(), Duration::from_secs(1));
        let held_back = |held| {
            let reading = Reading::of_others("standby", Some(2.0), String::new());
            let reason = if held { Reason::HeldBack(reading) } else { Reason::Free };
            valve.set(&Decision { workers: 1, duty: 0.5, reason });
        };
        let (keys, other) = (Obstacle::of_keys("keys wait"), Obstacle::new("another"));
        held_back(true);
        let seconds = AtomicU32::new(10);
        let limit = || second * seconds.load(Ordering::Relaxed);
        let mut patience = Patience::new(&limit, Some(&valve));
        let mut after = async |seconds, met: &Obstacle, held| {
            tokio::time::sleep(second * seconds).await;
            held_back(held);
            patience.met(met);
            patience.left().as_secs()
        };
        assert_eq!(after(3, &keys, true).await, 10);
        assert_eq!(after(2, &keys, false).await, 10);
        assert_eq!(after(2, &keys, true).await, 8, "nothing held it back");
        assert_eq!(after(3, &other, true).await, 5, "somebody else was in the way");
        assert_eq!(after(100, &keys, true).await, 5);
        assert_eq!(after(6, &other, true).await, 0);
        seconds.store(30, Ordering::Relaxed);
        assert_eq!(patience.left().as_secs(), 19, "the operator gives it more");
        patience.begin_anew();
        assert_eq!(patience.left(), second * 30);
    }
}
