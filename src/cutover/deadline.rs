//! The time an attempt has, as settings that the server enforces.

use std::time::{Duration, Instant};

/// The end of an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    end: Instant,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Deadline { end: Instant::now() + limit }
    }

    /// What is left; at least a millisecond, since 0 would mean no limit at all.
    pub(super) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.end
    }

    /// Sets every limit to what is left: a statement that runs too long, a tool that is stopped
    /// between two, a tool whose connection is cut in the middle of one.
    pub(super) fn settings(self, version: i32) -> String {
        let left = self.left().as_millis();
        let mut sql = format!(
            "SET LOCAL statement_timeout = {left}; \
             SET LOCAL idle_in_transaction_session_timeout = {left}; "
        );
        if version >= 170_000 {
            // Counts from here: the timer starts when it is set inside a transaction.
            sql.push_str(&format!("SET LOCAL transaction_timeout = {left}; "));
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_is_over_is_never_no_limit() {
        let over = Deadline::after(Duration::ZERO);
        assert!(over.is_over());
        assert!(over.settings(150_000).contains("statement_timeout = 1;"));
        assert!(!over.settings(150_000).contains("LOCAL transaction_timeout"));
        assert!(over.settings(170_000).contains("SET LOCAL transaction_timeout = 1;"));
    }
}
