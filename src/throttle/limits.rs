//! How much of what may be taken.

use std::time::Duration;

/// The limits of the signals. A signal without one is not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How far a standby may be behind.
    pub lag: Duration,
    /// The same in bytes of WAL.
    pub lag_bytes: u64,
    /// Standbys that may be behind as they like, by application name.
    pub ignored: Vec<String>,
    /// WAL that another logical slot in use may hold back.
    pub subscriber_bytes: u64,
    /// WAL that the whole server may write a second.
    pub wal_rate: Option<u64>,
    /// Throttles while the number that it gives is greater than zero.
    pub query: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            lag: Duration::from_secs(2),
            lag_bytes: 256 << 20,
            ignored: Vec::new(),
            subscriber_bytes: 1 << 30,
            wal_rate: None,
            query: None,
        }
    }
}
