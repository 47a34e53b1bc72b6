//! What the traffic met with: counts, errors, latencies.

use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::action::Verb;
use super::line::Failure;
use super::oracle::Oracle;
use crate::error::{Error, Result};

/// Errors and anomalies are all counted; of the texts, these many are kept.
const KEPT: usize = 100;
const ONE_HOUR_MICROS: u64 = 3_600_000_000;

/// A statement that failed.
#[derive(Debug, Clone)]
pub struct StatementError {
    /// How long after the start of the traffic.
    pub after: Duration,
    /// What was tried: `connect`, `read`, `insert`, `update`, `delete`, `move`.
    pub statement: &'static str,
    pub sqlstate: Option<String>,
    pub message: String,
}

/// The statement that took longest.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    pub duration: Duration,
    /// When the statement was sent.
    pub began: SystemTime,
}

/// What happened while the traffic ran.
#[derive(Debug)]
pub struct Report {
    pub elapsed: Duration,
    /// Acknowledged writes, of all kinds.
    pub writes: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub moves: u64,
    pub error_count: u64,
    /// The first errors of each session, without stale plans.
    pub errors: Vec<StatementError>,
    /// Statements that failed with "cached plan must not change result type" and were repeated.
    pub cached_plan_errors: u64,
    /// How often a statement's connection died under it.
    pub lost_connections: u64,
    pub anomaly_count: u64,
    /// Rows that were missing or different at the moment a session asked for them.
    pub anomalies: Vec<String>,
    pub longest_stall: Stall,
    pub p50: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub(super) oracles: Vec<Oracle>,
    pub(super) rows_at_start: i64,
}

impl Report {
    pub(super) fn new(
        tally: Tally,
        elapsed: Duration,
        oracles: Vec<Oracle>,
        rows_at_start: i64,
    ) -> Report {
        let quantile = |q| Duration::from_micros(tally.timing.histogram.value_at_quantile(q));
        let [inserts, updates, deletes, moves] = tally.writes;
        Report {
            elapsed,
            writes: tally.writes.iter().sum(),
            inserts,
            updates,
            deletes,
            moves,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            error_count: tally.error_count,
            errors: tally.errors,
            cached_plan_errors: tally.cached_plan_errors,
            lost_connections: tally.lost_connections,
            anomaly_count: tally.anomaly_count,
            anomalies: tally.anomalies,
            longest_stall: tally.timing.longest,
            oracles,
            rows_at_start,
        }
    }

    /// Acknowledged writes per second.
    pub fn writes_per_second(&self) -> f64 {
        self.writes as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Latencies in microseconds, and the longest with its moment.
#[derive(Debug)]
pub(super) struct Timing {
    histogram: Histogram<u64>,
    longest: Stall,
}

impl Timing {
    pub(super) fn new() -> Result<Timing> {
        let histogram = Histogram::new_with_bounds(1, ONE_HOUR_MICROS, 3)
            .map_err(|e| Error::failed("no latency histogram could be made").source(e))?;
        let longest = Stall { duration: Duration::ZERO, began: SystemTime::UNIX_EPOCH };
        Ok(Timing { histogram, longest })
    }

    fn add(&mut self, other: &Timing) -> Result<()> {
        if other.longest.duration > self.longest.duration {
            self.longest = other.longest;
        }
        self.histogram
            .add(&other.histogram)
            .map_err(|e| Error::failed("latency histograms could not be added").source(e))
    }
}

/// One session's counts, or the sum of several.
#[derive(Debug)]
pub(super) struct Tally {
    began: (Instant, SystemTime),
    writes: [u64; 4],
    errors: Vec<StatementError>,
    error_count: u64,
    anomalies: Vec<String>,
    anomaly_count: u64,
    timing: Timing,
    pub(super) cached_plan_errors: u64,
    pub(super) lost_connections: u64,
}

impl Tally {
    pub(super) fn new(timing: Timing, began: (Instant, SystemTime)) -> Tally {
        Tally {
            began,
            writes: [0; 4],
            errors: Vec::new(),
            error_count: 0,
            anomalies: Vec::new(),
            anomaly_count: 0,
            timing,
            cached_plan_errors: 0,
            lost_connections: 0,
        }
    }

    /// Notes how long a statement took that was sent at `sent`; in microseconds.
    pub(super) fn timed(&mut self, sent: Instant) -> u64 {
        let duration = sent.elapsed();
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.timing.histogram.saturating_record(micros);
        if duration > self.timing.longest.duration {
            let began = self.began.1 + (sent - self.began.0);
            self.timing.longest = Stall { duration, began };
        }
        micros
    }

    pub(super) fn count(&mut self, verb: Verb) {
        match verb {
            Verb::Read => {}
            Verb::Insert => self.writes[0] += 1,
            Verb::Update => self.writes[1] += 1,
            Verb::Delete => self.writes[2] += 1,
            Verb::Move => self.writes[3] += 1,
        }
    }

    pub(super) fn failed(&mut self, statement: &'static str, failure: Failure) {
        self.error_count += 1;
        if self.errors.len() < KEPT {
            let Failure { message, sqlstate, .. } = failure;
            let after = self.began.0.elapsed();
            self.errors.push(StatementError { after, statement, sqlstate, message });
        }
    }

    pub(super) fn anomaly(&mut self, what: String) {
        self.anomaly_count += 1;
        if self.anomalies.len() < KEPT {
            self.anomalies.push(what);
        }
    }

    pub(super) fn add(&mut self, other: Tally) -> Result<()> {
        for (sum, n) in self.writes.iter_mut().zip(other.writes) {
            *sum += n;
        }
        self.errors.extend(other.errors);
        self.errors.sort_by_key(|error| error.after);
        self.error_count += other.error_count;
        self.anomalies.extend(other.anomalies);
        self.anomaly_count += other.anomaly_count;
        self.cached_plan_errors += other.cached_plan_errors;
        self.lost_connections += other.lost_connections;
        self.timing.add(&other.timing)
    }
}
