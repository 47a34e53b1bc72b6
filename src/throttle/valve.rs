//! Between ranges, the workers of the copy and of verification ask here whether they may go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::controller::Decision;

/// No pause is longer: what presses may be over by then, and somebody may want to stop.
const LONGEST: Duration = Duration::from_secs(30);
/// A range is shortened by no more than this where there is little time to work: one after a long pause
/// should not be too much at once.
const SHORTEST: f64 = 0.02;

/// Who ended a range is back for the next one within this.
const BACK: Duration = Duration::from_secs(1);

/// What the workers may do; shared by whoever decides and whoever obeys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Valve {
    flow: Arc<watch::Sender<Flow>>,
    used: Arc<Mutex<Use>>,
}

/// Who is there to obey.
#[derive(Debug, Default)]
struct Use {
    there: usize,
    left: Option<Instant>,
}

/// Somebody who waits at a valve, or whom it let go on, until this is dropped.
#[must_use = "who works is there until this is dropped"]
pub struct There(Arc<Mutex<Use>>);

impl There {
    fn at(used: &Arc<Mutex<Use>>) -> Self {
        lock(used).there += 1;
        There(Arc::clone(used))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let mut used = lock(&self.0);
        used.there -= 1;
        used.left = Some(Instant::now());
    }
}

fn lock(used: &Mutex<Use>) -> MutexGuard<'_, Use> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    workers: usize,
    duty: f64,
}

impl Default for Valve {
    /// Shut, until somebody has decided.
    fn default() -> Self {
        let shut = Flow { workers: 0, duty: 0.0 };
        Valve { flow: Arc::new(watch::Sender::new(shut)), used: Arc::default() }
    }
}

impl Valve {
    /// From now on the workers may do this.
    pub fn set(&self, decision: &Decision) {
        let flow = Flow { workers: decision.workers, duty: decision.duty };
        self.flow.send_if_modified(|now| std::mem::replace(now, flow) != flow);
    }

    /// Whether the worker `number`, from 0, may begin another range.
    pub fn lets(&self, number: usize) -> bool {
        number < self.flow.borrow().workers
    }

    /// Whether somebody waits here or works.
    pub fn is_used(&self) -> bool {
        let used = lock(&self.used);
        used.there > 0 || used.left.is_some_and(|at| at.elapsed() < BACK)
    }

    /// Waits, after work that took so long, until the worker `number` may begin another range.
    /// It is there while it works, too.
    pub async fn pass(&self, number: usize, worked: Duration) -> There {
        let there = There::at(&self.used);
        let mut flow = self.flow.subscribe();
        let began = Instant::now();
        loop {
            let now = *flow.borrow_and_update();
            let rest = if number < now.workers { pause(worked, now.duty) } else { Duration::MAX };
            let left = rest.saturating_sub(began.elapsed());
            // Without a sender nobody would ever open it again; `self` is one.
            if left.is_zero() || timeout(left, flow.changed()).await.is_err() {
                return there;
            }
        }
    }

    /// How much of its usual time a range should take.
    pub fn share(&self) -> f64 {
        self.flow.borrow().duty.max(SHORTEST)
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
    async fn it_is_used_by_those_who_wait_and_those_who_work() {
        let valve = Valve::default();
        assert!(!valve.is_used());
        let opened = async {
            tokio::time::sleep(BACK * 2).await;
            assert!(valve.is_used(), "somebody waits");
            set(&valve, 1, 1.0);
        };
        let (works, ()) = tokio::join!(valve.pass(0, Duration::ZERO), opened);
        tokio::time::sleep(BACK * 60).await;
        assert!(valve.is_used(), "it works for long");
        drop(works);
        assert!(valve.is_used(), "it may be back");
        tokio::time::sleep(BACK).await;
        assert!(!valve.is_used());
    }

    #[tokio::test(start_paused = true)]
    async fn workers_wait_until_they_may_and_no_longer() {
        let (valve, second) = (Valve::default(), Duration::from_secs(1));
        let took = async |number, worked| {
            let began = Instant::now();
            let _there = valve.pass(number, worked).await;
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
