//! The keys that changed since they were last copied.
//!
//! **Invariant 3** (dirty until proven) lives in [`DirtySet::finish`]: a key is cleared only by a
//! committed sync whose snapshot sees the last transaction that made it dirty, and only if nothing
//! made it dirty again since it was selected. **Invariant 4**'s half about keys lives in
//! [`DirtySet::select`]: a key is in at most one batch at a time. **Invariant 5**'s position is
//! [`DirtySet::confirmable`]. No I/O here; the keeper stores what memory should not hold.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::key::Key;
use crate::pg::{Lsn, Snapshot};

/// All keys known to be dirty, and how far the stream has been taken in.
#[derive(Debug, Default)]
pub struct DirtySet {
    entries: HashMap<Key, Entry>,
    /// Keys waiting to be selected. May name keys that are gone or in flight; those are skipped.
    ready: VecDeque<Key>,
    /// Commit positions whose keys are only in memory, with how many.
    undurable: BTreeMap<Lsn, usize>,
    /// Everything before this has been taken in.
    received: Lsn,
    /// Rows of `pgwraith.dirty` that are not loaded.
    on_disk: u64,
    barrier: Option<Barrier>,
    /// How many TRUNCATEs were decoded; a batch selected before one clears nothing after it.
    truncations: u64,
    recorded: Option<HashSet<Key>>,
    synced: u64,
    /// Counts what made keys dirty.
    versions: u64,
}

#[derive(Debug)]
struct Entry {
    /// The last transaction that made it dirty.
    xid: u64,
    /// Another one each time it is made dirty, also after it was cleared and forgotten.
    version: u64,
    /// The first commit not yet stored durably that made it dirty.
    undurable: Option<Lsn>,
    stored: Vec<StoredRow>,
    in_flight: bool,
}

/// A row of `pgwraith.dirty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRow {
    pub id: i64,
    pub xid: u64,
}

/// A TRUNCATE of the source that the shadow has not followed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    pub xid: u64,
    lsn: Lsn,
    stored: bool,
}

/// Keys selected for one writing transaction. Must be given back by `finish` or `abandon`.
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
    truncations: u64,
}

#[derive(Debug)]
struct Item {
    key: Key,
    xid: u64,
    version: u64,
    stored: Vec<StoredRow>,
}

impl Batch {
    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.items.iter().map(|i| &i.key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The stored rows that a sync at `snapshot` of all keys but `unsynced` makes superfluous; to be
    /// deleted in its transaction.
    pub fn settled_rows(&self, snapshot: &Snapshot, unsynced: &HashSet<Key>) -> Vec<i64> {
        let synced = self.items.iter().filter(|i| !unsynced.contains(&i.key));
        let rows = synced.flat_map(|i| &i.stored);
        rows.filter(|r| snapshot.sees(r.xid)).map(|r| r.id).collect()
    }
}

/// A key on its way to `pgwraith.dirty`.
#[derive(Debug)]
pub struct Spill {
    pub key: Key,
    pub xid: u64,
    version: u64,
    /// Rows of the same key that the new row replaces.
    pub replaces: Vec<i64>,
}

impl DirtySet {
    /// Notes that the transaction `xid`, whose commit record is at `commit`, changed `key`.
    pub fn mark(&mut self, key: Key, xid: u64, commit: Lsn) {
        if let Some(recorded) = &mut self.recorded {
            recorded.insert(key.clone());
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            self.ready.push_back(key);
            Entry { xid, version: 0, undurable: None, stored: Vec::new(), in_flight: false }
        });
        // The last in the order of commits, not the greatest: whoever changed the key later had to
        // wait for the one before to end, so a snapshot that sees the last sees all of them.
        entry.xid = xid;
        self.versions += 1;
        entry.version = self.versions;
        if entry.undurable.is_none() {
            entry.undurable = Some(commit);
            *self.undurable.entry(commit).or_default() += 1;
        }
    }

    /// Makes `key` dirty from outside the stream (repair): any snapshot taken from now on may clear
    /// it. Nothing to redeliver, so nothing to store.
    pub fn mark_for_repair(&mut self, key: Key) {
        let ready = &mut self.ready;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            ready.push_back(key);
            Entry { xid: 0, version: 0, undurable: None, stored: Vec::new(), in_flight: false }
        });
        self.versions += 1;
        entry.version = self.versions;
    }

    /// Notes a TRUNCATE: from now until [`DirtySet::truncated`] nothing is selected or cleared.
    pub fn mark_truncate(&mut self, xid: u64, commit: Lsn) {
        self.truncations += 1;
        let lsn = self.barrier.map_or(commit, |b| b.lsn.min(commit));
        self.barrier = Some(Barrier { xid, lsn, stored: false });
    }

    /// The TRUNCATE that the shadow has yet to follow.
    pub fn barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    /// The barrier is in the database.
    pub fn barrier_stored(&mut self, barrier: Barrier) {
        if let Some(b) = self.barrier.as_mut().filter(|b| **b == barrier) {
            b.stored = true;
        }
    }

    /// The shadow followed `barrier`, unless another TRUNCATE came since.
    pub fn truncated(&mut self, barrier: Barrier) {
        if self.barrier.is_some_and(|b| b.xid == barrier.xid) {
            self.barrier = None;
        }
    }

    /// Everything before `position` has been taken in.
    pub fn advance(&mut self, position: Lsn) {
        self.received = self.received.max(position);
    }

    /// Everything before this has been taken in.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// A position before which every key is synced or stored.
    pub fn confirmable(&self) -> Lsn {
        let barrier = self.barrier.filter(|b| !b.stored).map(|b| b.lsn);
        let keys = self.undurable.keys().next().copied();
        barrier.into_iter().chain(keys).min().unwrap_or(self.received).min(self.received)
    }

    /// Up to `most` keys for one writing transaction; none while a TRUNCATE waits.
    pub fn select(&mut self, most: usize) -> Batch {
        let mut items = Vec::new();
        while self.barrier.is_none() && items.len() < most {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&key).filter(|e| !e.in_flight) else { continue };
            entry.in_flight = true;
            let (xid, version, stored) = (entry.xid, entry.version, entry.stored.clone());
            items.push(Item { key, xid, version, stored });
        }
        Batch { items, truncations: self.truncations }
    }

    /// The batch was synced at `snapshot`, and that has committed. Returns how many keys it cleared.
    pub fn finish(&mut self, batch: Batch, snapshot: &Snapshot) -> usize {
        self.finish_but(batch, snapshot, &HashSet::new())
    }

    /// The batch but for the keys `unsynced` was synced at `snapshot`, and that has committed.
    /// Returns how many keys it cleared.
    pub fn finish_but(
        &mut self,
        batch: Batch,
        snapshot: &Snapshot,
        unsynced: &HashSet<Key>,
    ) -> usize {
        let void = batch.truncations != self.truncations;
        let mut cleared = 0;
        for item in batch.items {
            let Some(entry) = self.entries.get_mut(&item.key) else { continue };
            if unsynced.contains(&item.key) {
                entry.in_flight = false;
                self.ready.push_back(item.key);
                continue;
            }
            entry.stored.retain(|r| !(item.stored.contains(r) && snapshot.sees(r.xid)));
            // A change that was decoded may not be visible yet (its backend may wait for a
            // synchronous standby): the key then stays dirty and is synced again.
            let proven = entry.version == item.version && snapshot.sees(item.xid) && !void;
            if proven {
                self.synced += 1;
                cleared += 1;
                self.remove(&item.key);
            } else {
                entry.in_flight = false;
                self.ready.push_back(item.key);
            }
        }
        cleared
    }

    /// The batch did not commit.
    pub fn abandon(&mut self, batch: Batch) {
        for item in batch.items {
            if let Some(entry) = self.entries.get_mut(&item.key) {
                entry.in_flight = false;
                self.ready.push_back(item.key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(lsn) = entry.undurable
            && let Some(count) = self.undurable.get_mut(&lsn)
        {
            *count -= 1;
            if *count == 0 {
                self.undurable.remove(&lsn);
            }
        }
    }

    /// Up to `most` keys of memory that may go to the database. Those that came from there may go
    /// back: where they cannot be synced yet, what they wait for needs the room.
    pub fn to_spill(&self, most: usize) -> Vec<Spill> {
        let idle = self.entries.iter().filter(|(_, e)| !e.in_flight);
        idle.take(most)
            .map(|(key, e)| Spill {
                key: key.clone(),
                xid: e.xid,
                version: e.version,
                replaces: e.stored.iter().map(|r| r.id).collect(),
            })
            .collect()
    }

    /// The keys are in the database, committed; memory lets go of those that did not change since.
    pub fn spilled(&mut self, spills: Vec<Spill>) {
        for spill in spills {
            self.on_disk += 1;
            let Some(entry) = self.entries.get_mut(&spill.key) else { continue };
            entry.stored.retain(|r| !spill.replaces.contains(&r.id));
            if entry.version == spill.version && !entry.in_flight {
                self.remove(&spill.key);
            }
        }
        if self.ready.len() > 2 * self.entries.len() + 1024 {
            let mut seen = HashSet::new();
            let entries = &self.entries;
            self.ready.retain(|k| entries.contains_key(k) && seen.insert(k.clone()));
        }
    }

    /// A stored key comes back into memory.
    pub fn load(&mut self, key: Key, row: StoredRow) {
        self.on_disk = self.on_disk.saturating_sub(1);
        if let Some(recorded) = &mut self.recorded {
            recorded.insert(key.clone());
        }
        let ready = &mut self.ready;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            ready.push_back(key);
            Entry {
                xid: row.xid,
                version: 0,
                undurable: None,
                stored: Vec::new(),
                in_flight: false,
            }
        });
        // What memory took from the stream came after what was stored.
        if entry.undurable.is_none() {
            entry.xid = row.xid;
        }
        self.versions += 1;
        entry.version = self.versions;
        entry.stored.push(row);
    }

    /// Keys in memory.
    pub fn in_memory(&self) -> usize {
        self.entries.len()
    }

    /// Whether `key` is dirty, as far as memory knows.
    pub fn holds(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Keys in the database that are not in memory.
    pub fn on_disk(&self) -> u64 {
        self.on_disk
    }

    /// Keys that are dirty, wherever they are kept.
    pub fn backlog(&self) -> u64 {
        self.entries.len() as u64 + self.on_disk
    }

    /// Keys cleared so far.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Starts recording P: every key that is or becomes dirty, batches in flight included.
    /// The caller sees to it that nothing is on disk.
    pub fn start_recording(&mut self) {
        self.recorded = Some(self.entries.keys().cloned().collect());
    }

    /// Ends recording and gives what was recorded.
    pub fn take_recorded(&mut self) -> HashSet<Key> {
        self.recorded.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::pack([&[n][..]])
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_stays_dirty_until_a_snapshot_sees_its_last_change() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("10:11:10")), 0, "decoded, not yet visible");
        let batch = set.select(9);
        assert_eq!(batch.len(), 1);
        set.mark(key(1), 11, Lsn(200));
        assert_eq!(set.finish(batch, &snapshot("20:20:")), 0, "changed since it was selected");
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("20:20:")), 1);
        assert_eq!(set.backlog(), 0);
    }

    #[test]
    fn the_last_change_counts_not_the_one_with_the_greatest_xid() {
        let mut set = DirtySet::default();
        set.mark(key(1), 12, Lsn(100));
        set.mark(key(1), 10, Lsn(200)); // Began earlier, changed the key later.
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("10:13:10")), 0);
        set.load(key(1), StoredRow { id: 7, xid: 12 });
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("10:13:10")), 0, "stored before, loaded later");
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("13:13:")), 1);
    }

    #[test]
    fn a_key_is_in_one_batch_at_a_time() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        let batch = set.select(9);
        set.mark(key(1), 11, Lsn(200));
        assert!(set.select(9).is_empty());
        set.abandon(batch);
        assert_eq!(set.select(9).len(), 1);
    }

    #[test]
    fn the_confirmed_position_stops_before_the_first_key_only_in_memory() {
        let mut set = DirtySet::default();
        set.advance(Lsn(50));
        assert_eq!(set.confirmable(), Lsn(50));
        set.mark(key(1), 10, Lsn(100));
        set.mark(key(2), 11, Lsn(200));
        set.mark(key(1), 12, Lsn(300));
        set.advance(Lsn(400));
        assert_eq!(set.confirmable(), Lsn(100));
        let spills = set.to_spill(9);
        set.mark(key(2), 13, Lsn(500));
        set.advance(Lsn(600));
        set.spilled(spills);
        assert_eq!(set.confirmable(), Lsn(200), "key 2 changed while it was being stored");
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("20:20:")), 1);
        assert_eq!(set.confirmable(), Lsn(600));
        assert_eq!((set.on_disk(), set.in_memory()), (2, 0));
    }

    #[test]
    fn a_key_changed_after_it_was_cleared_stays_when_the_old_change_is_stored() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        let spills = set.to_spill(9);
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("11:11:")), 1);
        set.mark(key(1), 20, Lsn(200));
        set.advance(Lsn(300));
        set.spilled(spills);
        assert_eq!((set.in_memory(), set.confirmable()), (1, Lsn(200)));
    }

    #[test]
    fn keys_that_were_loaded_can_be_stored_again() {
        let mut set = DirtySet::default();
        set.load(key(1), StoredRow { id: 7, xid: 10 });
        let spills = set.to_spill(9);
        assert_eq!((spills.len(), &spills[0].replaces[..]), (1, &[7][..]));
        set.spilled(spills);
        assert_eq!((set.in_memory(), set.on_disk()), (0, 1));
    }

    #[test]
    fn a_stored_row_is_settled_only_by_a_snapshot_that_sees_it() {
        let mut set = DirtySet::default();
        set.load(key(1), StoredRow { id: 7, xid: 10 });
        set.load(key(1), StoredRow { id: 8, xid: 12 });
        let batch = set.select(9);
        assert_eq!(batch.settled_rows(&snapshot("11:11:"), &HashSet::new()), [7]);
        assert!(batch.settled_rows(&snapshot("11:11:"), &HashSet::from([key(1)])).is_empty());
        assert_eq!(set.finish(batch, &snapshot("11:11:")), 0);
        let batch = set.select(9);
        assert_eq!(batch.settled_rows(&snapshot("20:20:"), &HashSet::new()), [8]);
        assert_eq!(set.finish(batch, &snapshot("20:20:")), 1);
    }

    #[test]
    fn a_key_that_could_not_be_written_stays_dirty() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        set.mark(key(2), 10, Lsn(100));
        let batch = set.select(9);
        let unsynced = HashSet::from([key(1)]);
        assert_eq!(set.finish_but(batch, &snapshot("20:20:"), &unsynced), 1);
        let batch = set.select(9);
        assert_eq!(batch.keys().collect::<Vec<_>>(), [&key(1)]);
    }

    #[test]
    fn a_truncate_voids_what_was_selected_before_it() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        let batch = set.select(9);
        set.mark_truncate(11, Lsn(200));
        set.mark(key(2), 12, Lsn(300));
        set.advance(Lsn(400));
        assert!(set.select(9).is_empty(), "nothing is selected while a TRUNCATE waits");
        assert_eq!(set.finish(batch, &snapshot("20:20:")), 0);
        let barrier = set.barrier().unwrap();
        set.truncated(barrier);
        assert_eq!(set.select(9).len(), 2);
    }

    #[test]
    fn recording_holds_what_is_dirty_in_flight_or_becomes_so() {
        let mut set = DirtySet::default();
        set.mark(key(1), 10, Lsn(100));
        set.mark(key(2), 10, Lsn(100));
        let batch = set.select(1);
        set.start_recording();
        set.finish(batch, &snapshot("20:20:"));
        set.mark(key(3), 11, Lsn(200));
        assert_eq!(set.take_recorded().len(), 3);
    }
}
