//! How fast the copy may go: a pure function of what was read, and when.
//!
//! What presses reacts late, and most of it adds up: a standby that gets more than it can take falls
//! further behind for as long as that lasts, and its lag is seen half a second later. So the speed follows
//! not only how near a signal is to its limit but how fast it comes nearer (a proportional and a derivative
//! part, on the logarithm of the speed, so that it does not matter how fast a standby is). The speed that
//! each signal would allow is found for itself, and the least one counts: limits are kept alone and
//! together. Between signals that allow all and one that forbids anything there is no switching back and
//! forth: a signal that stopped the copy lets it go on at half of the speed at which it was stopped.
//!
//! Where there are standbys, or somebody else is at work, it begins slowly, and grows fast until the first of
//! them feels it: at half of the full speed a standby that takes a fortieth of it was eight seconds behind before
//! that ended.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Who feels what a signal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeltBy {
    /// One that the server sees, or one that is asked itself.
    Standby,
    /// What it reads and commits.
    Application,
    Others,
}

/// One signal, as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub felt_by: FeltBy,
    /// As shown to the operator: `standby eu2`.
    pub signal: String,
    /// The value as a share of its limit: 1 is at the limit. None where it could not be measured.
    pub pressure: Option<f64>,
    /// Value and limit for people: `1.9 of 2 s`; why it could not be measured.
    pub text: String,
}

impl Reading {
    /// Of what neither a standby nor the application feels by itself.
    pub fn of_others(signal: impl Into<String>, pressure: Option<f64>, text: String) -> Self {
        Reading { felt_by: FeltBy::Others, signal: signal.into(), pressure, text }
    }

    /// Of a standby.
    pub fn of_standby(signal: String, pressure: Option<f64>, text: String) -> Self {
        Reading { felt_by: FeltBy::Standby, signal, pressure, text }
    }

    /// Of what the application feels, where it is there: where nobody else is at work, nothing that was measured presses.
    pub fn of_application(
        signal: &str,
        anybody: bool,
        pressure: Option<f64>,
        text: impl FnOnce() -> String,
    ) -> Self {
        let signal = signal.to_owned();
        match (anybody, pressure) {
            (true, _) => Reading { felt_by: FeltBy::Application, signal, pressure, text: text() },
            (false, None) => Reading::of_others(signal, None, text()),
            (false, Some(_)) => {
                Reading::of_others(signal, Some(0.0), "nobody else is at work".to_owned())
            }
        }
    }

    pub fn is_of_standby(&self) -> bool {
        self.felt_by == FeltBy::Standby
    }
}

/// What the copy may do until the next decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Workers that may work; 0 stops the copy at the next chunk boundary.
    pub workers: usize,
    /// The share of the time that each may work.
    pub duty: f64,
    pub reason: Reason,
}

/// Why it is going as fast as it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Nothing holds it back.
    Free,
    /// The operator paused it.
    Paused,
    /// This signal is the nearest to its limit.
    HeldBack(Reading),
    /// Nothing presses: it becomes faster since this signal held it back; or since it began, slowly, where there is none.
    Grows(Option<String>),
    /// This signal is over its limit by far, or was a moment ago.
    Stopped(Reading),
    /// This signal cannot be measured, which counts as over its limit.
    Blind(Reading),
}

/// Where a signal is held: below its limit by what it may overshoot.
const SETPOINT: f64 = 0.6;
/// From here on the copy stops, until the signal is below its limit again.
const STOP: f64 = 1.5;
/// How much the speed's logarithm changes a second for a distance of one limit from the setpoint.
const GAIN: f64 = 0.5;
/// And for an approach of one limit a second.
const DAMPING: f64 = 1.5;
/// Over the limit the speed is halved each second at least.
const OVER: f64 = -std::f64::consts::LN_2;
/// No faster than this a second: a reading may be wrong.
const FALL: f64 = -3.0;
const RISE: f64 = 0.7;
/// Where it begins, as a share of the most, and how fast it grows then, where somebody may feel it.
const BEGIN: f64 = 0.02;
const GROW: f64 = 1.0;
/// The application's reads and commits feel all that happens on a server, at any time a little: what they say is
/// noisy, but of now, and does not add up. So the middle of the last readings counts, and how fast it comes nearer
/// says nothing. From here on the application is said to feel the copy, and what stops it is farther away.
pub(super) const FELT: f64 = 0.4;
const MIDDLE_OF: usize = 5;
const GAIN_NOW: f64 = 1.0;
const STOP_NOW: f64 = 3.0;
/// How fast it grows up to the speed, in workers, that a server of two processors of which the application has half
/// bears well; the same, once it was felt, or from there on while nothing is felt at all; and from there on. A processor
/// that is nearly used up is felt all at once, before it is measured, and whoever runs into that again and again is
/// felt all the time.
const MODEST: f64 = 0.5;
const EASE: f64 = 0.5;
const AGAIN: f64 = 0.15;
const CREEP: f64 = 0.04;
/// And from this share of the speed at which it was felt.
const NEAR: f64 = 0.7;
const CREEP_NEAR: f64 = 0.01;
/// A signal that has been so far from its limit for so many seconds does not press any more: whatever held
/// it up before is gone.
const QUIET: f64 = 0.1;
const QUIET_FOR: f64 = 6.0;
/// The least speed, as a share of the most: from nothing it could not rise.
const LEAST: f64 = 0.01;
/// Over how long the approach is averaged, in seconds.
const SMOOTHING: f64 = 0.35;
/// Longer ago nothing was decided: then the clock stood still for us, not for the server.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// The constants are tuned for this many decisions a second, and readings that are up to 0.6 s old.
pub const EVERY: Duration = Duration::from_millis(250);

/// The controller of one copy.
#[derive(Debug)]
pub struct Controller {
    /// Workers at full speed.
    most: f64,
    /// In workers, from `LEAST` of the most to the most.
    speed: f64,
    /// It has grown since it began, and nobody has felt it yet.
    begins: bool,
    /// What made it slower, the last time.
    slowed_by: Option<String>,
    signals: HashMap<String, Signal>,
    decided: Option<Instant>,
}

/// What is known of a signal from before.
#[derive(Debug)]
struct Signal {
    pressure: f64,
    /// A second, averaged.
    approach: f64,
    /// Seconds for which it has been quiet.
    quiet: f64,
    stops: bool,
    /// The last ones, of what is noisy.
    last: VecDeque<f64>,
    /// The speed at which it began to be felt, the last time.
    felt_at: Option<f64>,
}

impl Controller {
    /// Begins at half speed.
    pub fn new(workers: usize) -> Self {
        let most = workers.max(1) as f64;
        let speed = most / 2.0;
        Controller {
            most,
            speed,
            begins: false,
            slowed_by: None,
            signals: HashMap::new(),
            decided: None,
        }
    }

    /// Begins anew, slowly: nobody works, and what others feel of that says nothing.
    pub fn begin_slowly(&mut self) {
        self.speed = self.most * BEGIN;
        self.begins = true;
        self.slowed_by = None;
    }

    /// Other workers at full speed from now on.
    pub fn set_workers(&mut self, workers: usize) {
        let most = workers.max(1) as f64;
        self.speed *= most / self.most;
        self.most = most;
    }

    /// Decides, at a moment no earlier than the last decision's.
    pub fn decide(&mut self, readings: &[Reading], paused: bool, now: Instant) -> Decision {
        let since = self.decided.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.decided = Some(now);
        let seconds = since.min(LONGEST_STEP).as_secs_f64();
        self.signals.retain(|signal, _| readings.iter().any(|r| r.signal == *signal));
        if paused {
            return stop(Reason::Paused);
        }
        let mut least: Option<(f64, f64, &Reading)> = None;
        let mut greatest: Option<(f64, &Reading)> = None;
        let mut stopped: Option<Reason> = None;
        let mut stops_now = false;
        for reading in readings {
            let Some(pressure) = reading.pressure else {
                stopped = Some(Reason::Blind(reading.clone()));
                continue;
            };
            let signal = self.signals.entry(reading.signal.clone()).or_default();
            let before = signal.stops;
            let (mut change, felt) = match reading.felt_by {
                FeltBy::Application => (signal.take_felt(pressure, seconds, self.speed), FELT),
                FeltBy::Standby => (signal.take(pressure, seconds), QUIET),
                FeltBy::Others => (signal.take(pressure, seconds), f64::INFINITY),
            };
            let grows = reading.felt_by != FeltBy::Application;
            if signal.pressure >= felt {
                self.begins = false;
            } else if self.begins && grows && signal.pressure < SETPOINT {
                change = GROW;
            }
            if signal.stops && !before {
                stops_now = true;
                self.slowed_by = Some(reading.signal.clone());
            }
            let pressing = pressure.max(signal.pressure);
            if pressing >= QUIET && greatest.is_none_or(|(of, _)| pressing > of) {
                greatest = Some((pressing, reading));
            }
            if signal.stops && stopped.is_none() {
                stopped = Some(Reason::Stopped(reading.clone()));
            }
            if least.is_none_or(|(of, ..)| change < of) {
                least = Some((change, pressing, reading));
            }
        }
        if stops_now {
            self.speed /= 2.0;
        }
        let rise = if self.begins { GROW } else { RISE };
        let change = least.map_or(rise, |(change, ..)| change).clamp(FALL, rise);
        if stopped.is_none() || change < 0.0 {
            self.speed *= (change * seconds).exp();
        }
        self.speed = self.speed.clamp(self.most * LEAST, self.most);
        self.begins &= self.speed < self.most;
        let holds = match least {
            Some((change, pressing, reading)) if change < 0.0 || pressing >= QUIET => {
                if change < 0.0 && pressing >= QUIET {
                    self.slowed_by = Some(reading.signal.clone());
                }
                Some(reading)
            }
            _ => greatest.map(|(_, reading)| reading),
        };
        match stopped {
            Some(reason) => stop(reason),
            None => self.go(holds),
        }
    }

    /// `holds` it back: what makes it slower, or allows the least of what presses.
    fn go(&self, holds: Option<&Reading>) -> Decision {
        let workers = (self.speed - 1e-9).ceil().max(1.0);
        let reason = match holds {
            _ if self.speed >= self.most => Reason::Free,
            Some(reading) => Reason::HeldBack(reading.clone()),
            None => Reason::Grows(self.slowed_by.clone()),
        };
        Decision { workers: workers as usize, duty: (self.speed / workers).min(1.0), reason }
    }
}

fn stop(reason: Reason) -> Decision {
    Decision { workers: 0, duty: 0.0, reason }
}

impl Default for Signal {
    /// One that has not pressed so far.
    fn default() -> Self {
        Signal {
            pressure: 0.0,
            approach: 0.0,
            quiet: QUIET_FOR,
            stops: false,
            last: VecDeque::from([0.0; MIDDLE_OF]),
            felt_at: None,
        }
    }
}

impl Signal {
    /// Takes a reading in; returns the change a second of the speed's logarithm that it asks for.
    fn take(&mut self, pressure: f64, seconds: f64) -> f64 {
        let pressure = pressure.clamp(0.0, 100.0);
        if seconds > 0.0 {
            let approach = (pressure - self.pressure) / seconds;
            self.approach += (approach - self.approach) * (seconds / SMOOTHING).min(1.0);
        }
        self.pressure = pressure;
        self.stops = pressure >= STOP || self.stops && pressure >= 1.0;
        self.quiet = if pressure < QUIET { self.quiet + seconds } else { 0.0 };
        let change = GAIN * (SETPOINT - pressure) - DAMPING * self.approach;
        match pressure {
            1.0.. => change.min(OVER),
            _ if self.quiet > QUIET_FOR => RISE,
            _ => change,
        }
    }

    /// The same of what the application feels, while the copy has this speed.
    fn take_felt(&mut self, pressure: f64, seconds: f64, speed: f64) -> f64 {
        let pressure = pressure.clamp(0.0, 100.0);
        self.stops = pressure >= STOP_NOW || self.stops && pressure >= 1.0;
        self.last.push_back(pressure);
        self.last.drain(..self.last.len().saturating_sub(MIDDLE_OF));
        let before = std::mem::replace(&mut self.pressure, middle(&self.last));
        self.quiet = if self.pressure < QUIET { self.quiet + seconds } else { 0.0 };
        if self.pressure >= FELT {
            if before < FELT {
                self.felt_at = Some(speed);
            }
            // It is of the last seconds: faster than that, what is over would be paid for again.
            return (GAIN_NOW * (FELT - self.pressure)).max(OVER);
        }
        if self.quiet > QUIET_FOR {
            self.felt_at = None;
        }
        match self.felt_at {
            None if speed < MODEST => EASE,
            None if self.quiet > QUIET_FOR => AGAIN,
            Some(felt_at) if speed >= felt_at * NEAR && speed >= MODEST => CREEP_NEAR,
            Some(felt_at) if speed < felt_at * NEAR && speed < MODEST => AGAIN,
            _ => CREEP,
        }
    }
}

/// The one in the middle.
fn middle(readings: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = readings.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
