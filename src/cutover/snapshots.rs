//! Snapshots that are older than the last full sync.
//!
//! A statement that reads the new table with such a snapshot would not see what that sync wrote. So
//! the cutover waits until none is left, after the sync's COMMIT was answered and before the lock.
//!
//! Why nobody needs to look again under the lock: whoever has a snapshot that does not see a
//! transaction shows a `backend_xmin` before that transaction's COMMIT is answered (both happen under
//! ProcArrayLock), and shows one as long as the snapshot lives. So the first list after the COMMIT
//! has them all, and later snapshots are no concern: an imported one needs its exporter alive. It is
//! not the value that says how old a snapshot is: any transaction that is in progress, our own too,
//! holds the `backend_xmin` of new snapshots back.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use super::look::{Obstacle, POLL};
use crate::error::Result;
use crate::pg::{Session, Who};
use crate::wal::XidWidener;

/// Waits until every snapshot that does not see what was committed before this call is gone; names
/// those that stay.
pub(super) async fn wait_for_older(
    observer: &Session,
    limit: Duration,
) -> Result<Option<Obstacle>> {
    let deadline = Instant::now() + limit;
    let (horizon, mut suspects) = holders(observer).await?;
    while !suspects.is_empty() {
        if Instant::now() > deadline {
            let who: Vec<Who> = suspects.into_iter().take(3).map(|s| s.who).collect();
            return Ok(Some(Obstacle::new(format!(
                "older snapshots would see the new table as it was: {}",
                Who::list(&who).unwrap_or_default()
            ))));
        }
        sleep(POLL).await;
        let (_, now) = holders(observer).await?;
        suspects.retain(|s| now.iter().any(|n| n.may_be_older(s, horizon)));
    }
    Ok(None)
}

/// Somebody with a snapshot.
struct Holder {
    /// Process, and when its transaction began (NULL where activity is not tracked).
    transaction: (i32, Option<i64>),
    xmin: Option<u64>,
    who: Who,
}

impl Holder {
    /// Whether this may be the suspect with its old snapshot. One whose `xmin` is not below the
    /// horizon sees all that was committed when the suspects were listed.
    fn may_be_older(&self, suspect: &Holder, horizon: Option<u64>) -> bool {
        self.transaction == suspect.transaction && (horizon.is_none() || self.xmin < horizon)
    }
}

/// Who has a snapshot, and the id of the next transaction.
async fn holders(observer: &Session) -> Result<(Option<u64>, Vec<Holder>)> {
    let sql = format!(
        "SELECT {}, a.backend_xmin::pg_catalog.text, \
         (pg_catalog.date_part('epoch', a.xact_start) * 1000000)::pg_catalog.int8, \
         pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text \
         FROM pg_catalog.pg_stat_activity a WHERE a.datname = pg_catalog.current_database() \
         AND a.backend_xmin IS NOT NULL AND a.backend_type <> 'autovacuum worker' \
         AND NOT pg_catalog.starts_with(a.application_name, 'pgwraith/') ORDER BY a.xact_start",
        Who::COLUMNS
    );
    let rows = observer.query(&sql, &[]).await?;
    let horizon = rows.first().and_then(|row| row.get::<_, &str>(7).parse().ok());
    let holder = |row: &Row| Holder {
        transaction: (row.get(0), row.get(6)),
        xmin: xmin(row, horizon),
        who: Who::of(row),
    };
    Ok((horizon, rows.iter().map(holder).collect()))
}

/// The row's `backend_xmin`, which has 32 bits, widened by the next transaction's id.
fn xmin(row: &Row, next: Option<u64>) -> Option<u64> {
    let xmin: u32 = row.get::<_, &str>(5).parse().ok()?;
    Some(XidWidener::new(next?).widen(xmin))
}
