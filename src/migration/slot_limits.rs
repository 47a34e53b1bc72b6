//! How much of the log our slot may hold back.

use crate::error::Result;
use crate::pg::Session;

/// The slot may hold back so much where nothing else is said.
const MAX_SLOT_WAL: u64 = 10 << 30;
/// Less than this is no sign of anything.
pub(super) const LEAST: u64 = 32 << 20;

/// What limits the WAL that the slot holds back, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotLimits {
    /// `--max-slot-wal`.
    pub(super) asked: Option<u64>,
    /// `max_slot_wal_keep_size`; a slot that exceeds it is lost.
    pub(super) server: Option<u64>,
}

impl SlotLimits {
    /// Asks the server for its limit.
    pub(super) async fn read(session: &Session, asked: Option<u64>) -> Result<Self> {
        // In MB; -1 is no limit.
        let sql = "SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings s \
                   WHERE s.name = 'max_slot_wal_keep_size'";
        let megabytes: i64 = session.one(sql, &[]).await?.get(0);
        let server = u64::try_from(megabytes).ok().map(|mb| mb.saturating_mul(1 << 20));
        Ok(SlotLimits { asked, server })
    }

    /// So much the slot may hold back.
    pub(super) fn bytes(self) -> u64 {
        let server = self.server.unwrap_or(u64::MAX);
        self.asked.unwrap_or(MAX_SLOT_WAL.min(server / 2)).min(server)
    }

    /// So much until the run gives it up.
    pub(super) fn of_guard(self) -> u64 {
        self.bytes().max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn the_slot_may_hold_back_what_was_asked_for_and_the_server_allows() {
        for (asked, server, bytes) in [
            (None, None, 10 * GB),
            (None, Some(40 * GB), 10 * GB),
            (None, Some(4 * GB), 2 * GB),
            (Some(3 * GB), Some(4 * GB), 3 * GB),
            (Some(6 * GB), Some(4 * GB), 4 * GB),
            (Some(60 * GB), None, 60 * GB),
            (None, Some(0), 0),
        ] {
            assert_eq!(SlotLimits { asked, server }.bytes(), bytes, "{asked:?} {server:?}");
        }
    }
}
