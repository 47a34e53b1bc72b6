//! Limits that stop a run: what is over one for some seconds needs a person, not a pause.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::controller::Reading;
use super::limits::Limits;

/// A moment's peak is none of its business.
const LASTS: Duration = Duration::from_secs(5);

/// One of them, as typed: `lag=30s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Critical {
    Lag(Duration),
    LagBytes(u64),
    SubscriberLag(u64),
    WalRate(u64),
    ArchiveLag(u64),
    LockWaiters(u32),
    ActiveSessions(u32),
    Probe(Duration),
}

impl FromStr for Critical {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NAMES: &str = "lag, lag-bytes, subscriber-lag, wal-rate, archive-lag, lock-waiters, active-sessions, probe";
        let (name, value) = text.split_once('=').ok_or("it is NAME=LIMIT, as in lag=30s")?;
        let time = || humantime::parse_duration(value).map_err(|e| format!("{name}: {e}"));
        let size = || super::limits::size(value).map_err(|e| format!("{name}: {e}"));
        let number = || value.parse::<u32>().map_err(|e| format!("{name}: {e}"));
        Ok(match name.trim() {
            "lag" => Critical::Lag(time()?),
            "lag-bytes" => Critical::LagBytes(size()?),
            "subscriber-lag" => Critical::SubscriberLag(size()?),
            "wal-rate" => Critical::WalRate(size()?),
            "archive-lag" => Critical::ArchiveLag(size()?),
            "lock-waiters" => Critical::LockWaiters(number()?),
            "active-sessions" => Critical::ActiveSessions(number()?),
            "probe" => Critical::Probe(time()?),
            other => return Err(format!("there is no signal {other:?}; there are {NAMES}")),
        })
    }
}

/// What those limits are; the others are none. `usual` says which standbys there are, and are ignored.
pub fn limits(all: &[Critical], usual: &Limits) -> Limits {
    let mut limits = Limits {
        lag: Duration::MAX,
        lag_bytes: u64::MAX,
        // That stops the copy, not the run.
        standstill: Duration::MAX,
        subscriber_bytes: u64::MAX,
        wal_rate: None,
        archive_bytes: u64::MAX,
        lock_waiters: None,
        active: None,
        probe_latency: Some(Duration::MAX),
        ..usual.clone()
    };
    for one in all {
        match *one {
            Critical::Lag(lag) => limits.lag = lag,
            Critical::LagBytes(bytes) => limits.lag_bytes = bytes,
            Critical::SubscriberLag(bytes) => limits.subscriber_bytes = bytes,
            Critical::WalRate(bytes) => limits.wal_rate = Some(bytes),
            Critical::ArchiveLag(bytes) => limits.archive_bytes = bytes,
            Critical::LockWaiters(most) => limits.lock_waiters = Some(most),
            Critical::ActiveSessions(most) => limits.active = Some(most),
            Critical::Probe(latency) => limits.probe_latency = Some(latency),
        }
    }
    limits
}

/// Since when each signal has been over its critical limit.
#[derive(Debug, Default)]
pub struct Watching(HashMap<String, Instant>);

impl Watching {
    /// The signal that has been over for long enough. What cannot be measured stops the copy, not the run.
    pub fn over(&mut self, readings: &[Reading], now: Instant) -> Option<Reading> {
        let over = |r: &&Reading| r.pressure.is_some_and(|pressure| pressure >= 1.0);
        self.0.retain(|name, _| readings.iter().filter(over).any(|r| r.signal == *name));
        let lasts = |r: &&Reading| {
            let since = *self.0.entry(r.signal.clone()).or_insert(now);
            now.duration_since(since) >= LASTS
        };
        readings.iter().filter(over).find(lasts).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_typed_by_the_names_of_the_signals() {
        let ok = |text: &str| text.parse::<Critical>().unwrap();
        assert_eq!(ok("lag=30s"), Critical::Lag(Duration::from_secs(30)));
        assert_eq!(ok("archive-lag=10GB"), Critical::ArchiveLag(10 << 30));
        assert_eq!(ok("lock-waiters=100"), Critical::LockWaiters(100));
        for bad in ["lag", "lag=", "speed=3", "lag-bytes=3", "active-sessions=x", ""] {
            assert!(bad.parse::<Critical>().is_err(), "{bad}");
        }
        let limits = limits(&[ok("lag=30s"), ok("probe=1s")], &Limits::default());
        assert_eq!((limits.lag.as_secs(), limits.lag_bytes), (30, u64::MAX));
        assert_eq!(
            (limits.probe_latency, limits.lock_waiters),
            (Some(Duration::from_secs(1)), None)
        );
    }

    #[test]
    fn what_lasts_stops_the_run_and_a_peak_does_not() {
        let (mut watching, start) = (Watching::default(), Instant::now());
        let mut at = |seconds, pressure| {
            let reading = Reading::of_others("lag", pressure, String::new());
            watching.over(&[reading], start + Duration::from_secs(seconds)).is_some()
        };
        assert!(!at(0, Some(2.0)));
        assert!(!at(4, Some(1.0)));
        assert!(!at(5, Some(0.9)), "it went back");
        assert!(!at(6, Some(3.0)));
        assert!(!at(10, Some(3.0)));
        assert!(at(11, Some(3.0)));
        assert!(!at(12, None), "not measured is not over");
        assert!(!at(60, Some(3.0)));
    }
}
