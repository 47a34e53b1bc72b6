//! Transaction ids at full width. The stream carries 32 bits, which repeat every four thousand
//! million transactions; snapshots are compared in 64 bits, which never do.

/// Widens the stream's 32-bit transaction ids to `xid8`.
///
/// PostgreSQL never lets an id in use fall 2^31 behind the next one ("Preventing Transaction ID
/// Wraparound Failures"), and a logical slot holds back the oldest: of all ids with the same low
/// half, the one nearest to an id the server was at lately is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidWidener {
    reference: u64,
}

impl XidWidener {
    /// `next` is the server's next full transaction id, `pg_snapshot_xmax(pg_current_snapshot())`.
    pub fn new(next: u64) -> Self {
        XidWidener { reference: next }
    }

    /// The full id nearest to the newest one seen.
    pub fn widen(&mut self, xid: u32) -> u64 {
        let full = nearest(self.reference, xid);
        self.advance_to(full);
        full
    }

    /// Tells how far the server has come. The stream of a quiet table tells nothing, for how long
    /// ever the server is busy elsewhere: call this whenever a snapshot is at hand, so that the
    /// reference never falls 2^31 behind.
    ///
    /// The reference never goes back: a transaction that began long before it committed would
    /// otherwise drag it away from the ids that follow.
    pub fn advance_to(&mut self, full: u64) {
        self.reference = self.reference.max(full);
    }
}

fn nearest(reference: u64, xid: u32) -> u64 {
    let low = reference as u32;
    let ahead = xid.wrapping_sub(low);
    let behind = low.wrapping_sub(xid);
    let (forward, back) =
        (reference.checked_add(u64::from(ahead)), reference.checked_sub(u64::from(behind)));
    match (forward, back) {
        (Some(forward), Some(_)) if ahead < behind => forward,
        (_, Some(back)) => back,
        // Before the first epoch there is nothing, so the id lies ahead.
        (Some(forward), None) => forward,
        (None, None) => u64::from(xid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WRAP: u64 = 1 << 32;

    #[test]
    fn ids_cross_the_wrap_in_both_directions() {
        let mut widener = XidWidener::new(WRAP + 5);
        assert_eq!(widener.widen(7), WRAP + 7);
        assert_eq!(widener.widen(u32::MAX), WRAP - 1);
        assert_eq!(widener.widen(0x9000_0000), 0x9000_0000);
        assert_eq!(widener.widen(8), WRAP + 8);

        let mut widener = XidWidener::new(3 * WRAP - 2);
        assert_eq!(widener.widen(u32::MAX), 3 * WRAP - 1);
        assert_eq!(widener.widen(3), 3 * WRAP + 3);
        assert_eq!(widener.widen(u32::MAX - 1), 3 * WRAP - 2);
    }

    #[test]
    fn a_young_or_ancient_server_never_leaves_the_range() {
        assert_eq!(XidWidener::new(5).widen(u32::MAX), u64::from(u32::MAX));
        assert_eq!(XidWidener::new(5).widen(3), 3);
        assert_eq!(XidWidener::new(0).widen(0), 0);
        assert_eq!(XidWidener::new(u64::MAX).widen(1), u64::MAX - WRAP + 2);
        assert_eq!(XidWidener::new(u64::MAX).widen(u32::MAX), u64::MAX);
    }

    #[test]
    fn a_quiet_stream_is_kept_up_by_snapshots() {
        let mut widener = XidWidener::new(1000);
        widener.advance_to(10 * WRAP);
        widener.advance_to(9 * WRAP);
        assert_eq!(widener.widen(4), 10 * WRAP + 4);
    }

    proptest! {
        #[test]
        fn ids_close_to_the_newest_keep_their_upper_half(
            start in 0..u64::MAX / 2,
            steps in prop::collection::vec(-0x7fff_ffff_i64..0x8000_0000, 1..50),
        ) {
            let mut widener = XidWidener::new(start);
            let mut newest = start;
            for step in steps {
                let full = newest.saturating_add_signed(step);
                prop_assert_eq!(widener.widen(full as u32), full);
                newest = newest.max(full);
            }
        }

        #[test]
        fn the_low_half_always_stays(reference: u64, xid: u32) {
            prop_assert_eq!(XidWidener::new(reference).widen(xid) as u32, xid);
        }
    }
}
