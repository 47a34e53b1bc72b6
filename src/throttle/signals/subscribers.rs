//! How far those are behind who decode the log: they have to read past all that the copy writes.
//!
//! Slots that nobody reads from do not count: they would not catch up if the copy stopped.

use super::sizes;
use crate::pg::{Lossy, Lsn};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// Logical slots in use, but for those of migrations: the name, and up to where it is confirmed.
pub(super) const SQL: &str = "
  SELECT s.slot_name::pg_catalog.text, s.confirmed_flush_lsn FROM pg_catalog.pg_replication_slots s
  WHERE s.slot_type = 'logical' AND s.active AND NOT pg_catalog.starts_with(s.slot_name::pg_catalog.text, 'pgwraith')";

pub(super) fn read(rows: &[tokio_postgres::Row], written: Lsn, limits: &Limits) -> Vec<Reading> {
    let reading = |row: &tokio_postgres::Row| {
        let (Lossy(name), confirmed): (Lossy, Option<Lsn>) = (row.get(0), row.get(1));
        let behind = confirmed.map(|confirmed| written.bytes_since(confirmed));
        let limit = limits.subscriber_bytes;
        let pressure = behind.map(|bytes| bytes as f64 / limit.max(1) as f64);
        let text = behind.map_or("it has no position".to_owned(), |bytes| sizes(bytes, limit));
        Reading::of_others(format!("slot {name}"), pressure, text)
    };
    rows.iter().map(reading).collect()
}
