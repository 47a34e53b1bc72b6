//! The controller against standbys, and applications, that are simulated.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(50);
const EVERY: u32 = (super::EVERY.as_millis() / STEP.as_millis()) as u32;

fn reading(signal: &str, pressure: f64) -> Reading {
    let felt_by = match signal.split(' ').next() {
        Some("standby" | "replica") => FeltBy::Standby,
        Some("probe") => FeltBy::Application,
        _ => FeltBy::Others,
    };
    let text = format!("{pressure}");
    Reading { felt_by, signal: signal.to_owned(), pressure: Some(pressure), text }
}

/// A standby that takes `capacity` workers' speed; how far it is behind is seen `delay` steps later.
struct Standby {
    capacity: f64,
    limit: f64,
    backlog: f64,
    seen: VecDeque<f64>,
}

impl Standby {
    fn new(capacity: f64, limit: f64, delay: usize) -> Standby {
        Standby { capacity, limit, backlog: 0.0, seen: VecDeque::from(vec![0.0; delay + 1]) }
    }

    fn lag(&self) -> f64 {
        self.backlog / self.capacity
    }

    fn step(&mut self, speed: f64) {
        self.backlog = (self.backlog + (speed - self.capacity) * STEP.as_secs_f64()).max(0.0);
        self.seen.push_back(self.lag());
        self.seen.pop_front();
    }

    fn reading(&self, signal: &str) -> Reading {
        reading(signal, self.seen[0] / self.limit)
    }
}

/// What was seen of a simulated run, after some seconds to settle.
#[derive(Default, Debug)]
struct Course {
    work: f64,
    seconds: f64,
    over: f64,
    fastest: f64,
    slowest: f64,
}

/// `seconds` of a copy by `workers` against `standbys`, the first `settle` of them not counted.
fn simulate(workers: usize, standbys: &mut [Standby], settle: u32, seconds: u32) -> Course {
    simulate_with(Controller::new(workers), standbys, settle, seconds)
}

fn simulate_with(
    mut controller: Controller,
    standbys: &mut [Standby],
    settle: u32,
    seconds: u32,
) -> Course {
    let start = Instant::now();
    let mut course = Course { slowest: f64::MAX, ..Course::default() };
    let mut speed = 0.0;
    for step in 0..seconds * 20 {
        if step % EVERY == 0 {
            let name = |n: usize| format!("standby {n}");
            let readings: Vec<Reading> =
                standbys.iter().enumerate().map(|(n, s)| s.reading(&name(n))).collect();
            let decision = controller.decide(&readings, false, start + STEP * step);
            speed = decision.workers as f64 * decision.duty;
        }
        standbys.iter_mut().for_each(|standby| standby.step(speed));
        if step >= settle * 20 {
            course.seconds += STEP.as_secs_f64();
            course.work += speed * STEP.as_secs_f64();
            if standbys.iter().any(|s| s.lag() > s.limit) {
                course.over += STEP.as_secs_f64();
            }
            course.fastest = course.fastest.max(speed);
            course.slowest = course.slowest.min(speed);
        }
    }
    course
}

proptest! {
    /// The lag stays under its limit, and the copy gets most of what the standby can take. What is seen
    /// may be late, but not by more than two thirds of the limit.
    #[test]
    fn a_steady_standby_is_used_and_not_overrun(
        workers in 1usize..=8,
        share in 0.05f64..1.5,
        limit in 0.5f64..10.0,
        delay in 0usize..=12,
    ) {
        let capacity = share * workers as f64;
        let delay = delay.min((limit / STEP.as_secs_f64() / 1.5) as usize);
        let course = simulate(workers, &mut [Standby::new(capacity, limit, delay)], 60, 300);
        let got = course.work / course.seconds;
        prop_assert!(course.over <= 0.05 * course.seconds, "{course:?}");
        prop_assert!(got >= 0.8 * capacity.min(workers as f64), "{got} of {capacity}: {course:?}");
        let switches = course.fastest >= workers as f64 && course.slowest == 0.0;
        prop_assert!(!switches, "{course:?}");
    }

    /// From the very beginning, where that is slow.
    #[test]
    fn it_begins_without_overrunning_a_standby(
        workers in 1usize..=8,
        share in 0.02f64..1.5,
        limit in 2.0f64..10.0,
        delay in 0usize..=8,
    ) {
        let capacity = share * workers as f64;
        let mut controller = Controller::new(workers);
        controller.begin_slowly();
        let course = simulate_with(controller, &mut [Standby::new(capacity, limit, delay)], 0, 20);
        let got = course.work / course.seconds;
        prop_assert!(course.over <= 0.05 * course.seconds, "{course:?}");
        prop_assert!(got >= 0.8 * capacity.min(workers as f64), "{got} of {capacity}: {course:?}");
    }

    /// Of several the slowest counts, and nobody's limit is broken.
    #[test]
    fn every_limit_is_kept_together(
        shares in proptest::collection::vec(0.1f64..1.5, 2..5),
        limit in 1.0f64..5.0,
    ) {
        let mut standbys: Vec<Standby> =
            shares.iter().map(|share| Standby::new(share * 4.0, limit, 6)).collect();
        let course = simulate(4, &mut standbys, 60, 300);
        let slowest = shares.iter().fold(1.0f64, |least, share| least.min(*share)) * 4.0;
        prop_assert!(course.over <= 0.05 * course.seconds, "{course:?}");
        prop_assert!(course.work / course.seconds >= 0.8 * slowest, "{course:?}");
    }

    /// Whatever is read, in whatever order: the decision is one that can be followed.
    #[test]
    fn any_readings_give_a_decision(
        steps in proptest::collection::vec((0u64..5000, proptest::option::of(-1.0f64..1e12), any::<bool>()), 1..100),
    ) {
        let mut controller = Controller::new(3);
        let mut now = Instant::now();
        for (millis, pressure, paused) in steps {
            now += Duration::from_millis(millis);
            let reading = Reading::of_others("any", pressure, String::new());
            let decision = controller.decide(&[reading], paused, now);
            prop_assert!(decision.workers <= 3 && (0.0..=1.0).contains(&decision.duty));
            let stops = paused || pressure.is_none_or(|p| p >= STOP);
            prop_assert!(!stops || decision.workers == 0, "{decision:?}");
        }
    }
}

fn after(
    controller: &mut Controller,
    now: &mut Instant,
    readings: &[Reading],
    ticks: u32,
) -> Decision {
    let mut last = None;
    for _ in 0..ticks {
        *now += super::EVERY;
        last = Some(controller.decide(readings, false, *now));
    }
    last.unwrap()
}

#[test]
fn it_recovers_within_seconds() {
    let (mut controller, mut now) = (Controller::new(4), Instant::now());
    let over = after(&mut controller, &mut now, &[reading("lag", 1.4)], 60);
    assert!(over.workers <= 1 && over.duty <= 0.1, "{over:?}");
    let free = after(&mut controller, &mut now, &[reading("lag", 0.0)], 44);
    assert_eq!((free.workers, free.duty, free.reason), (4, 1.0, Reason::Free));
}

/// One reading in five is a peak that has nothing to do with the copy.
#[test]
fn peaks_of_what_the_application_feels_do_not_starve_the_copy() {
    let speed = |d: Decision| d.workers as f64 * d.duty;
    let (mut controller, mut now) = (Controller::new(2), Instant::now());
    controller.begin_slowly();
    for tick in 0..400 {
        let pressure = if tick % 5 == 0 { 1.8 } else { 0.1 };
        after(&mut controller, &mut now, &[reading("probe", pressure)], 1);
    }
    let last = speed(after(&mut controller, &mut now, &[reading("probe", 0.1)], 1));
    assert!(last > 1.0, "{last}");
    let hurt = speed(after(&mut controller, &mut now, &[reading("probe", 1.2)], 24));
    assert!(hurt < last / 20.0, "{hurt}, from {last}");
}

#[test]
fn it_grows_until_the_application_feels_it() {
    let readings = |probe| [reading("probe", probe)];
    let speed = |d: Decision| d.workers as f64 * d.duty;
    let (mut controller, mut now) = (Controller::new(4), Instant::now());
    controller.begin_slowly();
    let grows = speed(after(&mut controller, &mut now, &readings(0.0), 8));
    assert!((0.15..0.3).contains(&grows), "{grows}");
    let felt = speed(after(&mut controller, &mut now, &readings(0.45), 8));
    assert!(felt < grows * 1.5, "{felt}, from {grows}");
    let modest = speed(after(&mut controller, &mut now, &readings(0.2), 60));
    assert!((0.3..1.0).contains(&modest), "{modest}");
    assert_eq!(speed(after(&mut controller, &mut now, &readings(0.0), 120)), 4.0);
}

/// How fast the copy is on average, and for how much of the time it is felt, where that is so all at once from a speed
/// on, and seen two seconds late.
fn against_a_wall(at: f64) -> (f64, f64) {
    let (mut controller, mut now) = (Controller::new(2), Instant::now());
    controller.begin_slowly();
    let (mut seen, mut work, mut felt) = (VecDeque::from(vec![0.15; 9]), 0.0, 0);
    let ticks = 1200;
    for _ in 0..ticks {
        let pressure = seen.pop_front().unwrap();
        let decision = after(&mut controller, &mut now, &[reading("probe", pressure)], 1);
        let speed = decision.workers as f64 * decision.duty;
        seen.push_back(if speed > at { 1.5 } else { 0.15 });
        work += speed;
        felt += u32::from(speed > at);
    }
    (work / f64::from(ticks), f64::from(felt) / f64::from(ticks))
}

/// What it loses by that it makes good, and it is felt for a small part of the time.
#[test]
fn it_does_not_run_into_the_same_wall_again_and_again() {
    let (work, felt) = against_a_wall(1.0);
    assert!(work > 0.6 && felt < 0.2, "{work} of what it could, felt for {felt} of the time");
}

/// The same where the application has nearly all of the server, and the wall is far below what the copy grows to
/// otherwise.
#[test]
fn it_does_not_run_into_a_near_wall_again_and_again() {
    let (work, felt) = against_a_wall(0.2);
    assert!(work > 0.1 && felt < 0.3, "{work} of 0.2, felt for {felt} of the time");
}

#[test]
fn it_grows_fast_until_a_standby_feels_it() {
    let readings = |standby, other| [reading("standby eu", standby), reading("other", other)];
    let speed = |d: Decision| d.workers as f64 * d.duty;
    let (mut controller, mut now) = (Controller::new(4), Instant::now());
    controller.begin_slowly();
    let first = speed(after(&mut controller, &mut now, &readings(0.0, 0.4), 1));
    assert!(first < 0.3, "{first}");
    assert_eq!(speed(after(&mut controller, &mut now, &readings(0.0, 0.4), 17)), 4.0);
    controller.begin_slowly();
    let near = speed(after(&mut controller, &mut now, &readings(0.0, 0.9), 13));
    assert!(near < 0.3, "the other is near its limit: {near}");
    controller.begin_slowly();
    let felt = speed(after(&mut controller, &mut now, &readings(0.3, 0.4), 13));
    assert!(felt < 0.5, "the standby feels it: {felt}");
}

#[test]
fn far_over_the_limit_it_stops_and_goes_on_below() {
    let (mut controller, mut now) = (Controller::new(4), Instant::now());
    let one = |pressure| [reading("standby eu2", pressure)];
    assert_eq!(after(&mut controller, &mut now, &one(0.0), 60).reason, Reason::Free);
    let stopped = after(&mut controller, &mut now, &one(1.6), 1);
    assert_eq!((stopped.workers, stopped.reason), (0, Reason::Stopped(one(1.6)[0].clone())));
    assert_eq!(
        after(&mut controller, &mut now, &one(1.1), 4).workers,
        0,
        "not below its limit yet"
    );
    let on = after(&mut controller, &mut now, &one(0.9), 1);
    assert!(on.workers > 0 && matches!(on.reason, Reason::HeldBack(_)), "{on:?}");
    assert!((on.workers as f64) * on.duty <= 2.0, "no faster than half: {on:?}");
}

#[test]
fn what_does_not_press_is_not_said_to_hold_it_back() {
    let (mut controller, mut now) = (Controller::new(4), Instant::now());
    let both = |pressure| [reading("waiters", 0.0), reading("standby eu2", pressure)];
    controller.begin_slowly();
    assert_eq!(after(&mut controller, &mut now, &both(0.0), 1).reason, Reason::Grows(None));
    let held = after(&mut controller, &mut now, &both(0.9), 3).reason;
    assert_eq!(held, Reason::HeldBack(both(0.9)[1].clone()));
    let again = after(&mut controller, &mut now, &both(0.0), 2).reason;
    assert_eq!(again, Reason::Grows(Some("standby eu2".to_owned())));
    assert_eq!(after(&mut controller, &mut now, &both(0.0), 60).reason, Reason::Free);
}

#[test]
fn what_cannot_be_measured_stops_it_and_the_operator_comes_first() {
    let mut controller = Controller::new(2);
    let blind = Reading::of_standby("replica r".into(), None, "no answer".into());
    let readings = [reading("lag", 0.0), blind.clone()];
    let now = Instant::now();
    let decision = controller.decide(&readings, false, now);
    assert_eq!((decision.workers, decision.reason), (0, Reason::Blind(blind)));
    assert_eq!(controller.decide(&readings, true, now).reason, Reason::Paused);
}

#[test]
fn other_workers_keep_the_share() {
    let (mut controller, mut now) = (Controller::new(2), Instant::now());
    assert_eq!(after(&mut controller, &mut now, &[], 20).workers, 2);
    controller.set_workers(8);
    assert_eq!(after(&mut controller, &mut now, &[], 1).workers, 8);
}
