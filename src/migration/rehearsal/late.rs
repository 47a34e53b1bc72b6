//! What is measured of the new table when the sync has written rows to it besides those that were copied: from
//! ranges that were not.

use super::measure::Seen;

/// What was measured then.
#[derive(Debug, Default)]
pub(super) struct Late {
    pub(super) index_seconds: f64,
    pub(super) vacuum_seconds: f64,
    pub(super) vacuum_wal: f64,
    /// All of them; those that were there before have grown since.
    pub(super) indexes: Vec<(String, i64)>,
}

impl Late {
    /// Adds what of it is the copied rows' share, of so many that there were.
    pub(super) fn add_to(self, seen: &mut Seen, rows: f64) {
        let copied = seen.copied.rows as f64;
        let share = copied / rows.max(copied).max(1.0);
        seen.index_seconds += self.index_seconds * share;
        seen.vacuum_seconds = self.vacuum_seconds * share;
        seen.index_wal += self.vacuum_wal * share;
        let new = |(name, _): &(String, i64)| seen.indexes.iter().all(|(known, _)| known != name);
        let new: Vec<(String, i64)> = self.indexes.into_iter().filter(new).collect();
        for (name, bytes) in new {
            let bytes = bytes as f64 * share;
            // A build logs the pages that it writes.
            seen.index_wal += bytes;
            seen.indexes.push((name, bytes as i64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Copied;
    use super::*;

    #[test]
    fn what_the_sync_wrote_does_not_count() {
        let early = || Seen {
            copied: Copied { rows: 1_000, ..Copied::default() },
            index_seconds: 1.0,
            index_wal: 100.0,
            indexes: vec![("key".into(), 40)],
            ..Seen::default()
        };
        let late = || Late {
            index_seconds: 4.0,
            vacuum_seconds: 2.0,
            vacuum_wal: 8.0,
            indexes: vec![("unique".into(), 80), ("key".into(), 160)],
        };
        let mut seen = early();
        late().add_to(&mut seen, 4_000.0);
        assert_eq!((seen.index_seconds, seen.vacuum_seconds), (2.0, 0.5));
        assert_eq!(seen.indexes, [("key".to_owned(), 40), ("unique".to_owned(), 20)]);
        assert_eq!(seen.index_wal, 100.0 + 2.0 + 20.0);
        // Some were deleted since they were copied.
        let mut seen = early();
        late().add_to(&mut seen, 900.0);
        assert_eq!(seen.vacuum_seconds, 2.0);
    }
}
