//! What the set of dirty keys promises.

use super::dirty::*;
use super::key::Key;
use crate::pg::{Lsn, Snapshot};
use std::collections::HashSet;

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
    set.spilled(spills, 0);
    assert_eq!(set.confirmable(), Lsn(200), "key 2 changed while it was being stored");
    let batch = set.select(9);
    assert_eq!(set.finish(batch, &snapshot("20:20:")), 1);
    assert_eq!(set.confirmable(), Lsn(600));
    assert_eq!((set.on_disk(), set.in_memory()), (2, 0));
}

#[test]
fn the_keys_that_hold_the_position_back_are_stored_first() {
    let mut set = DirtySet::default();
    for (n, position) in [(1, 300), (2, 100), (3, 200), (4, 400)] {
        set.mark(key(n), n.into(), Lsn(position));
    }
    set.load(key(5), StoredRow { id: 7, xid: 10 });
    set.advance(Lsn(500));
    for next in [200, 300, 400, 500] {
        let spills = set.to_spill(1);
        assert_eq!(spills.len(), 1);
        set.spilled(spills, 0);
        assert_eq!(set.confirmable(), Lsn(next));
    }
    assert!(set.holds(&key(5)), "it is stored");
}

#[test]
fn a_key_on_its_way_to_the_database_is_in_no_batch_and_counts_as_stored() {
    let mut set = DirtySet::default();
    set.mark(key(1), 10, Lsn(100));
    let spills = set.to_spill(9);
    assert!(set.select(9).is_empty());
    assert_eq!(set.on_disk(), 1);
    assert!(!set.start_recording());
    assert_eq!(set.select_all().unwrap_err(), Remains::Stored);
    set.mark(key(1), 20, Lsn(200));
    set.advance(Lsn(300));
    set.spilled(spills, 0);
    assert_eq!((set.in_memory(), set.on_disk(), set.confirmable()), (1, 1, Lsn(100)));
    assert_eq!(set.select(9).len(), 1);
}

#[test]
fn keys_that_were_loaded_can_be_stored_again() {
    let mut set = DirtySet::default();
    set.load(key(1), StoredRow { id: 7, xid: 10 });
    let spills = set.to_spill(9);
    assert_eq!(spills.len(), 1);
    set.spilled(spills, 1);
    assert_eq!((set.in_memory(), set.on_disk()), (0, 1));
}

#[test]
fn a_key_stored_twice_is_counted_once() {
    let mut set = DirtySet::default();
    for xid in [10, 11] {
        set.mark(key(1), xid, Lsn(xid * 10));
        let spills = set.to_spill(9);
        set.spilled(spills, xid - 10);
    }
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
    assert!(set.start_recording());
    set.finish(batch, &snapshot("20:20:"));
    set.mark(key(3), 11, Lsn(200));
    assert_eq!(set.take_recorded().len(), 3);
}

#[test]
fn keys_that_clashed_let_stored_ones_go_first() {
    let mut set = DirtySet::default();
    set.load(key(1), StoredRow { id: 1, xid: 10 });
    set.mark(key(2), 10, Lsn(100));
    let unsynced = HashSet::from([key(1), key(2)]);
    let batch = set.select(9);
    set.finish_but(batch, &snapshot("20:20:"), &unsynced);
    let batch = set.select_all().unwrap();
    assert_eq!(batch.len(), 2, "nothing is stored");
    set.finish_but(batch, &snapshot("20:20:"), &unsynced);
    let spills = set.to_spill(1);
    set.spilled(spills, 0);
    set.mark(key(3), 10, Lsn(200));
    let batch = set.select(9);
    assert_eq!(batch.keys().collect::<Vec<_>>(), [&key(3)]);
    set.finish(batch, &snapshot("20:20:"));
    assert_eq!(set.select(9).len(), 1, "nothing else is in memory");
}

#[test]
fn a_repair_does_not_take_the_place_of_a_stored_change() {
    let mut set = DirtySet::default();
    set.mark(key(1), 20, Lsn(100));
    let spills = set.to_spill(9);
    set.spilled(spills, 0);
    set.mark_for_repair(key(1));
    assert!(set.to_spill(9).is_empty(), "it would say that every snapshot sees the change");
    set.mark(key(1), 21, Lsn(200));
    assert_eq!(set.to_spill(9).len(), 1);
}

#[test]
fn a_row_that_any_snapshot_sees_does_not_hide_the_one_that_must_be_seen() {
    // Of one key the keeper stored a change, and a range that left its row out the key.
    let (told, left_out) = (StoredRow { id: 7, xid: 20 }, StoredRow { id: 8, xid: SEEN_BY_ALL });
    for order in [[told, left_out], [left_out, told]] {
        let mut set = DirtySet::default();
        set.will_be_stored(2);
        for row in order {
            set.load(key(1), row);
        }
        let batch = set.select(9);
        assert_eq!(batch.settled_rows(&snapshot("20:21:20"), &HashSet::new()), [8]);
        assert_eq!(set.finish(batch, &snapshot("20:21:20")), 0, "decoded, not yet visible");
        let batch = set.select(9);
        assert_eq!(set.finish(batch, &snapshot("21:21:")), 1);
        assert_eq!(set.backlog(), 0);
    }
    let mut set = DirtySet::default();
    set.will_be_stored(1);
    set.load(key(1), left_out);
    // Other than a repair it goes back where memory is short.
    assert_eq!(set.to_spill(9).len(), 1);
    set.will_be_stored(3);
    set.were_not_stored(3);
    assert_eq!(set.on_disk(), 1);
}

#[test]
fn keys_tried_in_vain_are_counted_until_something_changes_them() {
    let mut set = DirtySet::default();
    let tried = |set: &mut DirtySet| {
        let batch = set.select(9);
        let unsynced: HashSet<Key> = batch.keys().cloned().collect();
        set.finish_but(batch, &snapshot("50:50:"), &unsynced);
    };
    for n in 1..=3 {
        set.mark(key(n), 10, Lsn(100));
    }
    tried(&mut set);
    tried(&mut set);
    assert_eq!(set.in_vain(), 3);
    set.mark(key(1), 11, Lsn(200));
    assert_eq!(set.in_vain(), 2, "it may fit now");
    tried(&mut set);
    assert_eq!(set.in_vain(), 3);
    let batch = set.select(9);
    assert_eq!(set.finish(batch, &snapshot("50:50:")), 3);
    assert_eq!((set.in_vain(), set.backlog()), (0, 0));
}
