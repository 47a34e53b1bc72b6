//! Keeps changed keys together in memory while somebody is about to take all of them at once.
//!
//! Whoever does that is alone, so nobody makes room, and keys that were stored meanwhile would make it be in
//! vain: with room for few keys it would be so every time. So memory has room for [`SOME`] then, however small it
//! is to be, and the log may be held back further before keys are stored for its sake; not without limit, since
//! whoever tries to take them may be at it for long, time and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Few enough not to matter.
const SOME: usize = 1000;
/// The log may be held back so many times as far.
const FURTHER: u64 = 4;

/// How many keep keys together.
#[derive(Default)]
pub(super) struct Keeping(Arc<AtomicUsize>);

/// While this is there, keys stay together.
pub struct Together(Arc<AtomicUsize>);

impl Keeping {
    pub(super) fn begin(&self) -> Together {
        self.0.fetch_add(1, Ordering::SeqCst);
        Together(Arc::clone(&self.0))
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// For how many keys there is room where that is usually `most`.
    pub(super) fn room(&self, most: usize) -> usize {
        if self.is_under_way() { most.max(SOME) } else { most }
    }

    /// At how many the stream is not read further. More than there is room for: what is over that can be stored then, and
    /// a fence comes back.
    pub(super) fn most(&self, most: usize) -> usize {
        if self.is_under_way() { most.max(2 * SOME) } else { most }
    }

    /// How many bytes of log may be held back where those are usually `most`.
    pub(super) fn log(&self, most: u64) -> u64 {
        if self.is_under_way() { most.saturating_mul(FURTHER) } else { most }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_more_room_until_the_last_has_done() {
        let keeping = Keeping::default();
        assert_eq!(keeping.room(10), 10);
        let first = keeping.begin();
        let second = keeping.begin();
        drop(first);
        assert_eq!((keeping.room(10), keeping.room(50_000)), (SOME, 50_000));
        assert!(keeping.most(20) > keeping.room(10));
        assert_eq!((keeping.log(5), keeping.log(u64::MAX)), (5 * FURTHER, u64::MAX));
        drop(second);
        assert_eq!((keeping.room(10), keeping.most(20), keeping.log(5)), (10, 20, 5));
    }
}
