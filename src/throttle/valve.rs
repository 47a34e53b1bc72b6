//! Between ranges, the workers of the copy and of verification ask here whether they may go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::controller::{Decision, Reason};
use super::presence::{Presence, There};

/// No pause is longer: what presses may be over by then, and somebody may want to stop.
const LONGEST: Duration = Duration::from_secs(30);
/// A range is shortened by no more than this where there is little time to work: one after a long pause
/// should not be too much at once.
const SHORTEST: f64 = 0.02;
/// A transaction is open meanwhile: no rest within a range is longer.
const BREATH: Duration = Duration::from_millis(100);
/// And what is left of a range when the copy is stopped gets no less of the time.
const LAST: f64 = 0.1;

/// What the workers may do; shared by whoever decides and whoever obeys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Valve {
    flow: Arc<watch::Sender<Flow>>,
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    workers: usize,
    duty: f64,
    /// Something holds it back, since then.
    scarce: Option<Instant>,
    /// And so long before that.
    was_scarce: Duration,
    /// Everybody rests until then.
    hush: Option<Instant>,
    /// For so long in all, what is left of that included.
    hushed: Duration,
}

impl Flow {
    /// What is left of a rest that began then.
    fn left(self, rest: Duration, began: Instant) -> Duration {
        let hush = self.hush.map(|until| until.saturating_duration_since(Instant::now()));
        rest.saturating_sub(began.elapsed()).max(hush.unwrap_or_default())
    }

    /// The same, where something holds it back from now on, or nothing does.
    fn held_back(self, scarce: bool) -> Self {
        match (self.scarce, scarce) {
            (None, true) => Flow { scarce: Some(Instant::now()), ..self },
            (Some(_), false) => Flow { scarce: None, was_scarce: self.scarce_for(), ..self },
            (None, false) | (Some(_), true) => self,
        }
    }

    /// The same, where everybody rests for so long from now on.
    fn quiet(self, time: Duration) -> Self {
        let now = Instant::now();
        let from = self.hush.map_or(now, |until| until.max(now));
        let until = from.max(now + time);
        Flow { hush: Some(until), hushed: self.hushed + (until - from), ..self }
    }

    fn hushed_for(self) -> Duration {
        let left = self.left(Duration::ZERO, Instant::now());
        self.hushed.saturating_sub(left)
    }

    fn scarce_for(self) -> Duration {
        self.was_scarce + self.scarce.map(|since| since.elapsed()).unwrap_or_default()
    }
}

impl Default for Valve {
    /// Shut, until somebody has decided.
    fn default() -> Self {
        let (scarce, was_scarce) = (Some(Instant::now()), Duration::ZERO);
        let (hush, hushed) = (None, Duration::ZERO);
        let shut = Flow { workers: 0, duty: 0.0, scarce, was_scarce, hush, hushed };
        Valve { flow: Arc::new(watch::Sender::new(shut)), presence: Presence::default() }
    }
}

impl Valve {
    /// From now on the workers may do this.
    pub fn set(&self, decision: &Decision) {
        self.flow.send_if_modified(|now| {
            // A range that has begun ends as it began.
            let duty = if decision.workers > 0 { decision.duty } else { now.duty };
            let flow = Flow { workers: decision.workers, duty, ..*now };
            let flow = flow.held_back(!matches!(decision.reason, Reason::Free));
            std::mem::replace(now, flow) != flow
        });
    }

    /// Nobody works for so long, as soon as what has begun and has no rests in it is done.
    pub fn hush(&self, time: Duration) {
        self.flow.send_modify(|now| *now = now.quiet(time));
    }

    /// Who is there to obey.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Whether the worker `number`, from 0, may begin another range.
    pub fn lets(&self, number: usize) -> bool {
        number < self.flow.borrow().workers
    }

    /// Waits, after work that took so long, until the worker `number` may begin another range.
    /// It is there while it works, too.
    pub async fn pass(&self, number: usize, worked: Duration) -> There {
        let there = self.presence.come();
        let mut flow = self.flow.subscribe();
        let began = Instant::now();
        loop {
            let now = *flow.borrow_and_update();
            let rest = if number < now.workers { pause(worked, now.duty) } else { Duration::MAX };
            let left = now.left(rest, began);
            // Without a sender nobody would ever open it again; `self` is one.
            if left.is_zero() || timeout(left, flow.changed()).await.is_err() {
                return there.works();
            }
        }
    }

    /// Whether there is less time to work than all of it.
    pub fn is_scarce(&self) -> bool {
        self.flow.borrow().scarce.is_some()
    }

    /// How long it has been so in all.
    pub fn scarce_for(&self) -> Duration {
        self.flow.borrow().scarce_for()
    }

    /// How long everybody has made way in all.
    pub fn hushed_for(&self) -> Duration {
        self.flow.borrow().hushed_for()
    }

    /// A rest within a range, after work that took so long. It does not wait for whoever stopped the copy, who
    /// wants the range to end.
    pub async fn breathe(&self, worked: Duration) {
        let _rest = self.presence.rests();
        let mut flow = self.flow.subscribe();
        let began = Instant::now();
        loop {
            let now = *flow.borrow_and_update();
            let least = if now.workers > 0 { 0.0 } else { LAST };
            let left = now.left(pause(worked, now.duty.max(least)).min(BREATH), began);
            if left.is_zero() || timeout(left, flow.changed()).await.is_err() {
                return;
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
    use super::super::controller::Reading;
    use super::*;

    fn set(valve: &Valve, workers: usize, duty: f64) {
        let reading = Reading::of_others("any", Some(0.6), String::new());
        let reason = if duty < 1.0 { Reason::HeldBack(reading) } else { Reason::Free };
        valve.set(&Decision { workers, duty, reason });
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
    async fn within_a_range_rests_are_short_and_end_with_the_copy() {
        let (valve, ms) = (Valve::default(), Duration::from_millis);
        let took = async || {
            let began = Instant::now();
            valve.breathe(ms(2)).await;
            began.elapsed()
        };
        set(&valve, 2, 1.0);
        let _works = valve.pass(0, Duration::ZERO).await;
        assert_eq!((valve.is_scarce(), took().await), (false, Duration::ZERO));
        set(&valve, 1, 0.2);
        assert_eq!((valve.is_scarce(), took().await), (true, ms(8)));
        set(&valve, 1, 0.001);
        assert_eq!(took().await, BREATH);
        let stopped = async {
            tokio::time::sleep(ms(15)).await;
            set(&valve, 0, 0.0);
        };
        assert_eq!(tokio::join!(took(), stopped).0, ms(18), "and what is left of it goes faster");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_how_long_something_held_it_back() {
        let (valve, second) = (Valve::default(), Duration::from_secs(1));
        let after = async |duty| {
            tokio::time::sleep(second).await;
            set(&valve, 1, duty);
            valve.scarce_for().as_secs()
        };
        let all = [after(0.5).await, after(1.0).await, after(1.0).await, after(0.2).await];
        assert_eq!(all, [1, 2, 2, 2], "shut at first");
        assert_eq!((after(0.1).await, after(1.0).await, after(1.0).await), (3, 4, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_used_by_those_who_wait_and_those_who_work() {
        let valve = Valve::default();
        assert!(!valve.presence().is_used());
        let opened = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(valve.presence().is_used(), "somebody waits");
            set(&valve, 1, 1.0);
        };
        let (works, ()) = tokio::join!(valve.pass(0, Duration::ZERO), opened);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(valve.presence().is_used(), "it works for long");
        drop(works);
        assert!(valve.presence().is_used(), "it may be back");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!valve.presence().is_used());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_hush_nobody_works() {
        let (valve, ms) = (Valve::default(), Duration::from_millis);
        set(&valve, 1, 0.5);
        let works = valve.pass(0, Duration::ZERO).await;
        valve.hush(ms(300));
        valve.hush(ms(60));
        let began = Instant::now();
        valve.breathe(ms(2)).await;
        assert_eq!(began.elapsed(), ms(300));
        valve.breathe(ms(2)).await;
        assert_eq!(began.elapsed(), ms(302));
        drop(works);
        assert_eq!(valve.hushed_for(), ms(300));
        valve.hush(ms(300));
        let _works = valve.pass(0, ms(2)).await;
        assert_eq!(began.elapsed(), ms(602));
        assert_eq!(valve.hushed_for(), ms(600));
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
