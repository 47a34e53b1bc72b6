//! Between ranges, the workers of the copy and of verification ask here whether they may go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::controller::Decision;

/// No pause is longer: what presses may be over by then, and somebody may want to stop.
const LONGEST: Duration = Duration::from_secs(30);
/// A range is shortened by no more than this where there is little time to work: one after a long pause
/// should not be too much at once.
const SHORTEST: f64 = 0.1;

/// What the workers may do; shared by whoever decides and whoever obeys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Valve(Arc<watch::Sender<Flow>>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    workers: usize,
    duty: f64,
}

impl Default for Valve {
    /// Shut, until somebody has decided.
    fn default() -> Self {
        Valve(Arc::new(watch::Sender::new(Flow { workers: 0, duty: 0.0 })))
    }
}

impl Valve {
    /// From now on the workers may do this.
    pub fn set(&self, decision: &Decision) {
        let flow = Flow { workers: decision.workers, duty: decision.duty };
        self.0.send_if_modified(|now| std::mem::replace(now, flow) != flow);
    }

    /// Whether the worker `number`, from 0, may begin another range.
    pub fn lets(&self, number: usize) -> bool {
        number < self.0.borrow().workers
    }

    /// Waits, after work that took so long, until the worker `number` may begin another range.
    pub async fn pass(&self, number: usize, worked: Duration) {
        let mut flow = self.0.subscribe();
        let began = Instant::now();
        loop {
            let now = *flow.borrow_and_update();
            let rest = if number < now.workers { pause(worked, now.duty) } else { Duration::MAX };
            let left = rest.saturating_sub(began.elapsed());
            // Without a sender nobody would ever open it again; `self` is one.
            if left.is_zero() || timeout(left, flow.changed()).await.is_err() {
                return;
            }
        }
    }

    /// How much of its usual time a range should take.
    pub fn share(&self) -> f64 {
        self.0.borrow().duty.max(SHORTEST)
    }
}

/// The rest that makes of the work the asked share of the time.
fn pause(worked: Duration, duty: f64) -> Duration {
    let duty = duty.clamp(1e-3, 1.0);
    worked.mul_f64((1.0 - duty) / duty).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::super::controller::Reason;
    use super::*;

    fn set(valve: &Valve, workers: usize, duty: f64) {
        valve.set(&Decision { workers, duty, reason: Reason::Free });
    }

    #[test]
    fn the_less_the_longer_but_never_for_ever() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 1.0), Duration::ZERO);
        assert_eq!(pause(second, 0.5), second);
        assert_eq!(pause(second, 0.05).as_secs(), 19);
        assert_eq!(pause(second * 60, 0.0), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn workers_wait_until_they_may_and_no_longer() {
        let (valve, second) = (Valve::default(), Duration::from_secs(1));
        let took = async |number, worked| {
            let began = Instant::now();
            valve.pass(number, worked).await;
            began.elapsed()
        };
        assert!(!valve.lets(0));
        set(&valve, 8, 1.0);
        assert_eq!(took(7, second).await, Duration::ZERO);
        set(&valve, 1, 0.25);
        assert_eq!((valve.lets(0), valve.lets(1)), (true, false));
        assert_eq!(took(0, second).await.as_secs(), 3);
        // Opened wider in the middle of a rest.
        let opened = async {
            tokio::time::sleep(second).await;
            set(&valve, 2, 0.4);
        };
        assert_eq!(tokio::join!(took(0, second * 2), opened).0.as_secs(), 3);
        set(&valve, 0, 0.0);
        let opened = async {
            tokio::time::sleep(second * 1000).await;
            set(&valve, 2, 1.0);
        };
        assert_eq!(tokio::join!(took(1, second), opened).0.as_secs(), 1000);
    }
}
