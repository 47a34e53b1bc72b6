//! How much of what may be taken.

use std::time::Duration;

/// The limits of the signals. A signal without one is not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How far a standby may be behind.
    pub lag: Duration,
    /// The same in bytes of WAL.
    pub lag_bytes: u64,
    /// One that has replayed nothing for so long, though there was something, stands still.
    pub standstill: Duration,
    /// Standbys that may be behind as they like, by application name.
    pub ignored: Vec<String>,
    /// Connection strings of standbys that are asked themselves.
    pub replicas: Vec<String>,
    /// WAL that another logical slot in use may hold back.
    pub subscriber_bytes: u64,
    /// WAL that the whole server may write a second.
    pub wal_rate: Option<u64>,
    /// Complete WAL segments that are not archived yet.
    pub archive_bytes: u64,
    /// Sessions that have waited for a lock for long.
    pub lock_waiters: Option<u32>,
    /// Sessions at work, without ours.
    pub active: Option<u32>,
    /// How many times as many sessions as in calm times may be at work at a time, without ours.
    pub active_factor: f64,
    /// How many times as many transactions as beside the copy may be done while it rests.
    pub backlog_factor: f64,
    /// How many times as long as in calm times a read by key may take.
    pub probe_factor: f64,
    /// How long it may take at all, in place of that.
    pub probe_latency: Option<Duration>,
    /// Throttles while the number that it gives is greater than zero.
    pub query: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            lag: Duration::from_secs(2),
            lag_bytes: 256 << 20,
            standstill: standstill(Duration::from_secs(2)),
            ignored: Vec::new(),
            replicas: Vec::new(),
            subscriber_bytes: 1 << 30,
            wal_rate: None,
            archive_bytes: 1 << 30,
            lock_waiters: Some(20),
            active: None,
            active_factor: 1.5,
            backlog_factor: 1.25,
            probe_factor: 2.5,
            probe_latency: None,
            query: None,
        }
    }
}

/// Where a standby may be behind for so long: the half of that, since a standby that stands still is behind by
/// all the time that it stands; but a second, since they are read four times in one.
pub fn standstill(lag: Duration) -> Duration {
    (lag / 2).max(Duration::from_secs(1))
}

/// Bytes, written as PostgreSQL writes sizes: a number and its unit, in capitals but for kB.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let shift = match unit {
        "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return Err("it is a number and one of the units B, kB, MB, GB, TB, as in 10GB".into()),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{number:?} is not a number of {unit}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_postgresql_writes_them() {
        assert_eq!(size("512kB"), Ok(512 << 10));
        assert_eq!(size(" 64 MB "), Ok(64 << 20));
        assert_eq!(size("10GB"), Ok(10 << 30));
        assert_eq!(size("0B"), Ok(0));
        assert_eq!(size("3TB"), Ok(3 << 40));
        for bad in
            ["", "10", "GB", "10gb", "10KB", "-1MB", "1.5GB", "10 GB x", "99999999TB", "10GiB"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
