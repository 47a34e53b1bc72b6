//! How far those are behind who decode the log: they have to read past all that the copy writes.
//!
//! Slots that nobody reads from do not count: they would not catch up if the copy stopped. Whoever read a moment ago
//! may be back, as a subscriber is that starts anew, and finds no less to read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{VANISHED, sizes};
use crate::pg::{Lossy, Lsn};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// Logical slots, but for those of migrations: the name, up to where it is confirmed, and whether somebody reads.
pub(super) const SQL: &str = "
  SELECT s.slot_name::pg_catalog.text, s.confirmed_flush_lsn, s.active FROM pg_catalog.pg_replication_slots s
  WHERE s.slot_type = 'logical' AND NOT pg_catalog.starts_with(s.slot_name::pg_catalog.text, 'pgwraith')";

/// A slot as it was seen.
pub(super) struct Slot {
    name: String,
    confirmed: Option<Lsn>,
    in_use: bool,
}

impl Slot {
    /// From the rows of [`SQL`].
    pub(super) fn all(rows: &[tokio_postgres::Row]) -> Vec<Slot> {
        let slot = |row: &tokio_postgres::Row| {
            let Lossy(name) = row.get(0);
            Slot { name, confirmed: row.get(1), in_use: row.get(2) }
        };
        rows.iter().map(slot).collect()
    }
}

/// When each was last in use.
#[derive(Default)]
pub(super) struct Subscribers {
    used: HashMap<String, Instant>,
}

impl Subscribers {
    pub(super) fn read(
        &mut self,
        slots: &[Slot],
        written: Lsn,
        limits: &Limits,
        now: Instant,
    ) -> Vec<Reading> {
        let used = slots.iter().filter(|slot| slot.in_use);
        self.used.extend(used.map(|slot| (slot.name.clone(), now)));
        self.used.retain(|_, at| now.duration_since(*at) < VANISHED);
        let counts = slots.iter().filter_map(|slot| Some((slot, *self.used.get(&slot.name)?)));
        counts.map(|(slot, used)| reading(slot, written, limits, now - used)).collect()
    }
}

fn reading(slot: &Slot, written: Lsn, limits: &Limits, away: Duration) -> Reading {
    let behind = slot.confirmed.map(|confirmed| written.bytes_since(confirmed));
    let limit = limits.subscriber_bytes;
    let pressure = behind.map(|bytes| bytes as f64 / limit.max(1) as f64);
    let mut text = behind.map_or("it has no position".to_owned(), |bytes| sizes(bytes, limit));
    if !slot.in_use {
        text.push_str(&format!(", nobody reads it for {} s", away.as_secs()));
    }
    Reading::of_others(format!("slot {}", slot.name), pressure, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_just_gone_may_be_back() {
        let (mut subscribers, start) = (Subscribers::default(), Instant::now());
        let limits = Limits { subscriber_bytes: 1 << 20, ..Limits::default() };
        let mut at = |seconds, in_use| {
            let now = start + Duration::from_secs(seconds);
            let slots = [Slot { name: "s".to_owned(), confirmed: Some(Lsn(0)), in_use }];
            let mut readings = subscribers.read(&slots, Lsn(2 << 20), &limits, now);
            readings.pop().map(|reading| (reading.pressure, reading.text))
        };
        assert_eq!(at(0, false), None, "nobody has read it yet");
        assert_eq!(at(1, true), Some((Some(2.0), "2 of 1 MB".to_owned())));
        let away = "2 of 1 MB, nobody reads it for 29 s".to_owned();
        assert_eq!(at(30, false), Some((Some(2.0), away)));
        assert_eq!(at(31, false), None);
    }

    #[test]
    fn a_slot_that_is_dropped_does_not_count() {
        let (mut subscribers, now) = (Subscribers::default(), Instant::now());
        let slot = Slot { name: "s".to_owned(), confirmed: None, in_use: true };
        let mut read = |slots: &[Slot]| subscribers.read(slots, Lsn(0), &Limits::default(), now);
        assert_eq!(read(&[slot])[0].pressure, None);
        assert_eq!(read(&[]), []);
    }
}
