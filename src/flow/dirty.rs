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
    /// Keys whose rows clashed with others': no use trying again while those are stored.
    clashing: VecDeque<Key>,
    /// Commit positions whose keys are only in memory, with how many.
    undurable: BTreeMap<Lsn, usize>,
    /// Everything before this has been taken in.
    received: Lsn,
    /// Rows of `pgwraith.dirty` that are not loaded, those on their way there included.
    on_disk: u64,
    barrier: Option<Barrier>,
    /// How many TRUNCATEs were decoded; a batch selected before one clears nothing after it.
    truncations: u64,
    recorded: Option<HashSet<Key>>,
    /// How many entries were tried in vain.
    in_vain: usize,
    synced: u64,
    /// Counts what made keys dirty.
    versions: u64,
}

/// Every snapshot sees it.
const REPAIR: u64 = 0;

/// The transaction of a key that is stored as dirty whatever changed it (FrozenTransactionId, which no
/// snapshot fails to see). Not a repair's, which only memory knows.
pub(super) const SEEN_BY_ALL: u64 = 2;

#[derive(Debug)]
struct Entry {
    /// The last transaction that made it dirty.
    xid: u64,
    /// Another one each time it is made dirty, also after it was cleared and forgotten.
    version: u64,
    /// The first commit not yet stored durably that made it dirty.
    undurable: Option<Lsn>,
    stored: Vec<StoredRow>,
    /// In a batch, or on its way to the database.
    in_flight: bool,
    /// Its row clashed with another's, and nothing changed it since.
    in_vain: bool,
}

impl Entry {
    fn new(xid: u64) -> Self {
        Entry {
            xid,
            version: 0,
            undurable: None,
            stored: Vec::new(),
            in_flight: false,
            in_vain: false,
        }
    }
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

/// Why not every key can be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Keys are stored.
    Stored,
    /// A TRUNCATE is to be followed first.
    Truncate,
}

/// A key on its way to `pgwraith.dirty`.
#[derive(Debug)]
pub struct Spill {
    pub key: Key,
    pub xid: u64,
    version: u64,
    /// Stored rows of the key that are in memory, and that the new row replaces.
    loaded: u64,
}

impl DirtySet {
    /// Notes that the transaction `xid`, whose commit record is at `commit`, changed `key`.
    pub fn mark(&mut self, key: Key, xid: u64, commit: Lsn) {
        if let Some(recorded) = &mut self.recorded {
            recorded.insert(key.clone());
        }
        let entry = self.touch(key, xid);
        // The last in the order of commits, not the greatest: whoever changed the key later had to
        // wait for the one before to end, so a snapshot that sees the last sees all of them.
        entry.xid = xid;
        if entry.undurable.is_none() {
            entry.undurable = Some(commit);
            *self.undurable.entry(commit).or_default() += 1;
        }
    }

    /// Makes `key` dirty from outside the stream (repair): any snapshot taken from now on may clear
    /// it. Nothing to redeliver, so nothing to store.
    pub fn mark_for_repair(&mut self, key: Key) {
        self.touch(key, REPAIR);
    }

    /// The key's entry, a new one by `xid` where it has none, as made dirty again.
    fn touch(&mut self, key: Key, xid: u64) -> &mut Entry {
        self.versions += 1;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            self.ready.push_back(key);
            Entry::new(xid)
        });
        entry.version = self.versions;
        self.in_vain -= usize::from(std::mem::take(&mut entry.in_vain));
        entry
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

    /// Takes up what an earlier run stored: so many keys, and the TRUNCATE by this transaction that the
    /// shadow has yet to follow.
    pub fn restore(&mut self, on_disk: u64, truncate: Option<u64>) {
        self.on_disk = on_disk;
        self.barrier = truncate.map(|xid| Barrier { xid, lsn: Lsn::default(), stored: true });
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
        // Those that clashed wait for others: with all the rest where nothing is stored, and one by
        // one where nothing else is in memory, which tells the keeper to make room.
        let mut again = self.clashing.len();
        while self.barrier.is_none() && items.len() < most {
            let next = self.ready.pop_front().or_else(|| {
                let may = again > 0 && (self.on_disk == 0 || items.is_empty());
                again = again.saturating_sub(1);
                may.then(|| self.clashing.pop_front()).flatten()
            });
            let Some(key) = next else { break };
            let Some(entry) = self.entries.get_mut(&key).filter(|e| !e.in_flight) else { continue };
            entry.in_flight = true;
            let (xid, version, stored) = (entry.xid, entry.version, entry.stored.clone());
            items.push(Item { key, xid, version, stored });
        }
        Batch { items, truncations: self.truncations }
    }

    /// Every dirty key, for a point of **Invariant 6**; none where some are stored, or a TRUNCATE
    /// waits. One call: between two, stored keys might come back and be missed. The caller is alone,
    /// so no other batch has any.
    pub fn select_all(&mut self) -> Result<Batch, Remains> {
        match self.barrier {
            _ if self.on_disk > 0 => Err(Remains::Stored),
            Some(_) => Err(Remains::Truncate),
            None => Ok(self.select(usize::MAX)),
        }
    }

    /// The batch was synced at `snapshot`, committed. Returns how many keys it cleared.
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
                let newly = entry.version == item.version && !entry.in_vain;
                entry.in_vain |= newly;
                self.in_vain += usize::from(newly);
                self.clashing.push_back(item.key);
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
        self.in_vain -= usize::from(entry.in_vain);
        if let Some(lsn) = entry.undurable
            && let Some(count) = self.undurable.get_mut(&lsn)
        {
            *count -= 1;
            if *count == 0 {
                self.undurable.remove(&lsn);
            }
        }
    }

    /// Up to `most` keys of memory that go to the database, the oldest. Those that came from there may go back:
    /// where they cannot be synced yet, what they wait for needs the room.
    ///
    /// Until [`DirtySet::spilled`] no batch has them: both would delete their stored rows. They count
    /// as stored from now on, so that nobody who selects everything takes the rest for all.
    pub fn to_spill(&mut self, most: usize) -> Vec<Spill> {
        // A repair knows no transaction, and must not replace a stored row that does.
        let idle = self.entries.iter_mut().filter(|(_, e)| !e.in_flight && e.xid != REPAIR);
        let mut idle: Vec<_> = idle.collect();
        // Those that hold the slot's position back for the longest first.
        let by_age = |(_, e): &(_, &mut Entry)| (e.undurable.is_none(), e.undurable);
        if idle.len() > most {
            idle.select_nth_unstable_by_key(most, by_age);
            idle.truncate(most);
        }
        let spills: Vec<Spill> = idle
            .into_iter()
            .map(|(key, e)| {
                e.in_flight = true;
                let loaded = e.stored.len() as u64;
                Spill { key: key.clone(), xid: e.xid, version: e.version, loaded }
            })
            .collect();
        self.on_disk += spills.len() as u64;
        spills
    }

    /// The keys are in the database, committed, each in place of `replaced` rows in all; memory lets
    /// go of those that did not change since.
    pub fn spilled(&mut self, spills: Vec<Spill>, replaced: u64) {
        let loaded: u64 = spills.iter().map(|s| s.loaded).sum();
        self.on_disk = self.on_disk.saturating_sub(replaced.saturating_sub(loaded));
        for spill in spills {
            let Some(entry) = self.entries.get_mut(&spill.key) else { continue };
            entry.stored.clear();
            entry.in_flight = false;
            if entry.version == spill.version {
                self.remove(&spill.key);
            } else {
                self.ready.push_back(spill.key);
            }
        }
        let entries = &self.entries;
        for queue in [&mut self.ready, &mut self.clashing] {
            if queue.len() > 2 * entries.len() + 1024 {
                let mut seen = HashSet::new();
                queue.retain(|k| entries.contains_key(k) && seen.insert(k.clone()));
            }
        }
    }

    /// So many keys are about to be stored by somebody else than the keeper, none of them by way of
    /// memory. Before they are committed: whoever replaces one of their rows has counted it by then.
    pub(super) fn will_be_stored(&mut self, keys: u64) {
        self.on_disk += keys;
    }

    /// They were not.
    pub(super) fn were_not_stored(&mut self, keys: u64) {
        self.on_disk = self.on_disk.saturating_sub(keys);
    }

    /// A stored key comes back into memory.
    pub fn load(&mut self, key: Key, row: StoredRow) {
        self.on_disk = self.on_disk.saturating_sub(1);
        if let Some(recorded) = &mut self.recorded {
            recorded.insert(key.clone());
        }
        let entry = self.touch(key, row.xid);
        // What memory took from the stream came after what was stored; and a transaction that has to be
        // seen counts, whichever of two rows comes first.
        if entry.undurable.is_none() && row.xid != SEEN_BY_ALL {
            entry.xid = row.xid;
        }
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

    /// Keys of memory that wait for others to let go of a value, or, where the data has duplicates, for ever.
    pub fn in_vain(&self) -> u64 {
        self.in_vain as u64
    }

    /// Every key of memory, those that were tried in vain first; None while a TRUNCATE waits.
    pub(super) fn in_memory_keys(&self) -> Option<Vec<Key>> {
        let mut all: Vec<_> = self.entries.iter().collect();
        all.sort_by_key(|(_, entry)| !entry.in_vain);
        self.barrier.is_none().then(|| all.into_iter().map(|(key, _)| key.clone()).collect())
    }

    /// Keys cleared so far.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Starts recording P: every key that is or becomes dirty, batches in flight included. Does not
    /// start, and returns false, where P would lack stored keys or the shadow has a TRUNCATE to follow.
    pub fn start_recording(&mut self) -> bool {
        let may = self.on_disk == 0 && self.barrier.is_none();
        if may {
            self.recorded = Some(self.entries.keys().cloned().collect());
        }
        may
    }

    /// Ends recording and gives what was recorded.
    pub fn take_recorded(&mut self) -> HashSet<Key> {
        self.recorded.take().unwrap_or_default()
    }
}
