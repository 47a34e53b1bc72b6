//! How busy the server is with others' work: who waits for locks, who is active, how far archiving is behind.

use tokio_postgres::Row;

use super::{hidden, sizes};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// A wait that is over sooner is everyday.
const LONG_WAIT: &str = "1 second";

/// Of client sessions that are not ours: those that have waited for a lock for long, those that are active, and
/// whether any of them did anything of late. And the role, where it may not see that: everybody would look idle.
pub(super) fn sessions_sql() -> String {
    format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE a.wait_event_type = 'Lock' AND a.state = 'active' \
           AND a.query_start < pg_catalog.clock_timestamp() - interval '{LONG_WAIT}'), \
         pg_catalog.count(*) FILTER (WHERE a.state = 'active'), \
         COALESCE(pg_catalog.bool_or(a.state = 'active' OR a.state_change > pg_catalog.clock_timestamp() - interval '3 seconds'), false), \
         CASE WHEN NOT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') \
           THEN pg_catalog.quote_ident(CURRENT_USER::pg_catalog.text) END \
         FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend' \
         AND a.application_name NOT LIKE 'pgwraith/%'"
    )
}

/// Bytes of complete segments that are not archived, by the last one that was; null where that is unknown.
/// Whether anything is archived, and the segment that is written to.
pub(super) const ARCHIVER: &str = "
  SELECT pg_catalog.current_setting('archive_mode') <> 'off' AND NOT pg_catalog.pg_is_in_recovery(),
    w.written, w.archived, w.size
  FROM (SELECT z.size,
      pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::pg_catalog.int8 / z.size AS written,
      CASE WHEN a.last_archived_wal ~ '^[0-9A-F]{24}$' THEN
        ('x' || pg_catalog.substr(a.last_archived_wal, 9, 8))::pg_catalog.bit(32)::pg_catalog.int8 * (4294967296 / z.size)
        + ('x' || pg_catalog.substr(a.last_archived_wal, 17, 8))::pg_catalog.bit(32)::pg_catalog.int8 END AS archived
    FROM pg_catalog.pg_stat_archiver a, (SELECT s.setting::pg_catalog.int8 AS size FROM pg_catalog.pg_settings s
      WHERE s.name = 'wal_segment_size') z) w";

/// What others do.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    waiting: i64,
    active: i64,
    /// Somebody would notice if the server were slow; or may, for all that is known.
    pub(super) anybody: bool,
    /// The role that may not see them.
    hidden: Option<String>,
}

impl Sessions {
    pub(super) fn of(row: &Row) -> Self {
        let hidden: Option<String> = row.get(3);
        let anybody = row.get::<_, bool>(2) || hidden.is_some();
        Sessions { waiting: row.get(0), active: row.get(1), anybody, hidden }
    }

    pub(super) fn read(&self, limits: &Limits) -> impl Iterator<Item = Reading> {
        let reading = |signal: &str, value: i64, limit: u32, what: &str| {
            let (pressure, text) = match &self.hidden {
                Some(role) => (None, hidden(role)),
                None => (
                    Some(value as f64 / f64::from(limit.max(1))),
                    format!("{value} of {limit} {what}"),
                ),
            };
            Reading::of_others(signal, pressure, text)
        };
        let waiting = limits.lock_waiters.map(|limit| {
            reading("lock-waiters", self.waiting, limit, "sessions that wait for a lock")
        });
        let active = limits
            .active
            .map(|limit| reading("active-sessions", self.active, limit, "sessions at work"));
        waiting.into_iter().chain(active)
    }
}

/// How far archiving is behind.
#[derive(Debug, Default)]
pub(super) struct Archiver {
    /// The last segment that is known to be archived; before one is, the one that was written to when we
    /// first looked.
    archived: Option<i64>,
}

impl Archiver {
    /// Nothing where nothing is archived.
    pub(super) fn read(&mut self, row: &Row, limits: &Limits) -> Option<Reading> {
        let (on, written, archived, size) = (row.get(0), row.get(1), row.get(2), row.get(3));
        self.of(on, (written, archived), size, limits)
    }

    fn of(
        &mut self,
        on: bool,
        (written, archived): (i64, Option<i64>),
        size: i64,
        limits: &Limits,
    ) -> Option<Reading> {
        if !on {
            return None;
        }
        // Archived are also names that are no segments.
        let known = archived.or(self.archived).unwrap_or(written - 1);
        self.archived = Some(known);
        let behind = u64::try_from((written - known - 1).max(0) * size).unwrap_or(0);
        let pressure = behind as f64 / limits.archive_bytes.max(1) as f64;
        Some(Reading::of_others("archiver", Some(pressure), sizes(behind, limits.archive_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_is_as_far_behind_as_whole_segments_wait() {
        let (mut archiver, segment) = (Archiver::default(), 16 << 20);
        let limits = Limits { archive_bytes: 64 << 20, ..Limits::default() };
        let mut at = |written, archived| {
            archiver.of(true, (written, archived), segment, &limits).unwrap().pressure.unwrap()
        };
        assert_eq!(at(100, None), 0.0, "nothing was archived before we came");
        assert_eq!(at(102, None), 0.5);
        assert_eq!(at(103, Some(102)), 0.0, "the one that is written to does not wait");
        assert_eq!(at(107, Some(102)), 1.0);
        assert_eq!(at(107, None), 1.0, "a history file was archived last");
        assert_eq!(archiver.of(false, (107, None), segment, &limits), None);
    }

    #[test]
    fn only_what_has_a_limit_is_read() {
        let mut sessions =
            Sessions { waiting: 5, active: 12, anybody: true, ..Sessions::default() };
        let names = |sessions: &Sessions, limits: &Limits| -> Vec<(String, Option<f64>)> {
            sessions.read(limits).map(|r| (r.signal, r.pressure)).collect()
        };
        let limits = Limits { lock_waiters: Some(10), active: Some(6), ..Limits::default() };
        assert_eq!(
            names(&sessions, &limits),
            [("lock-waiters".to_owned(), Some(0.5)), ("active-sessions".to_owned(), Some(2.0))]
        );
        let none = Limits { lock_waiters: None, active: None, ..Limits::default() };
        assert_eq!(names(&sessions, &none), []);
        sessions.hidden = Some("app".into());
        let blind = |signal: &str| (signal.to_owned(), None);
        assert_eq!(names(&sessions, &limits), ["lock-waiters", "active-sessions"].map(blind));
    }
}
