//! A slot that nobody reads from holds WAL back; a limit keeps it from filling the disk, also when
//! the tool is stopped and cannot.

use super::disk::Need;
use super::{Finding, Result, Subject};

const GIGABYTE: i64 = 1 << 30;
/// Below this an ordinary hour of an application would end a run.
const SMALLEST_GIGABYTES: i64 = 10;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    // In MB; -1 is no limit.
    let sql = "SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings s \
               WHERE s.name = 'max_slot_wal_keep_size'";
    let limit: i64 = subject.session.one(sql, &[]).await?.get(0);
    if limit >= 0 {
        return Ok(vec![]);
    }
    Ok(vec![Finding::warn(
        "max_slot_wal_keep_size is -1: if pgwraith is stopped without dropping its slot, the WAL \
         kept for it grows until the disk is full",
        format!(
            "ALTER SYSTEM SET max_slot_wal_keep_size = '{}GB'; SELECT pg_reload_conf() (or another \
             size that the disk has room for; it holds for every slot, and one that exceeds it is \
             lost)",
            suggestion(Need::of(subject.table).copy())
        ),
    )])
}

/// Twice what the copy itself writes, so that the limit does not end a run that goes well.
fn suggestion(copy_bytes: i64) -> i64 {
    (copy_bytes.saturating_mul(2) / GIGABYTE + 1).max(SMALLEST_GIGABYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggestion_has_room_for_the_copy() {
        assert_eq!(suggestion(0), 10);
        assert_eq!(suggestion(100 * GIGABYTE), 201);
    }
}
