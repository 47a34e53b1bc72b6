//! Plain or CONCURRENTLY.
//!
//! A plain CREATE INDEX has a transaction id, and the slot's restart_lsn stays in front of the oldest
//! transaction that is open: until it ends, all WAL of the server is kept, its own and the
//! application's. The slot's confirmed position moves on meanwhile. CREATE INDEX CONCURRENTLY has no
//! transaction id while it builds, and holds nothing back (measured: 153 MB against nothing, at 1.4
//! times the time).

use crate::migration::slot_limits::SlotLimits;

/// How an index is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    Concurrently,
}

/// Plain where all that is written in the time of the build fits into half of what the slot may hold
/// back. The other half is for what the prediction misses, and for how far behind the slot is before.
pub(super) fn way(predicted: u64, limits: SlotLimits) -> Way {
    if predicted <= limits.bytes() / 2 { Way::Plain } else { Way::Concurrently }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn what_fits_into_half_of_the_limit_is_built_plainly() {
        let limits = |asked, server| SlotLimits { asked, server };
        for (predicted, limits, expected) in [
            (5 * GB, limits(None, None), Way::Plain),
            (5 * GB + 1, limits(None, None), Way::Concurrently),
            (2 * GB, limits(Some(60 * GB), Some(4 * GB)), Way::Plain),
            (2 * GB + 1, limits(Some(60 * GB), Some(4 * GB)), Way::Concurrently),
            (u64::MAX, limits(Some(u64::MAX), None), Way::Concurrently),
            (1, limits(None, Some(0)), Way::Concurrently),
        ] {
            assert_eq!(way(predicted, limits), expected, "{predicted} {limits:?}");
        }
    }
}
