//! Looking before locking: what would make us wait, and others behind us.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::Result;
use crate::flow::Flow;
use crate::flow::capture::{Fence, Tracker};
use crate::flow::sync::FENCE_LIMIT;
use crate::pg::{Session, Who};

/// So few keys can be synced under the lock.
const FEW: u64 = 500;
/// Before anything is held, they have so long to become few.
const DRAINED: Duration = Duration::from_secs(5);
/// A fence that takes longer means that decoding lags.
const FAST: Duration = Duration::from_millis(200);
/// A transaction older than this is not queued behind.
const LONG: &str = "1 second";
pub(super) const POLL: Duration = Duration::from_millis(10);

/// Why not now.
#[derive(Debug, Clone)]
pub(super) struct Obstacle {
    pub(super) text: String,
    /// Changed keys are to be synced first.
    pub(super) keys_wait: bool,
}

impl Obstacle {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Obstacle { text: text.into(), keys_wait: false }
    }

    /// Changed keys that are to be synced first.
    pub(super) fn of_keys(text: impl Into<String>) -> Self {
        Obstacle { keys_wait: true, ..Obstacle::new(text) }
    }
}

/// Whether more keys wait than can be synced under the lock. Those that are stored are never selected there: a
/// few of them are too many.
pub(super) fn too_many(tracker: &Tracker) -> bool {
    let dirty = tracker.dirty();
    dirty.backlog() > FEW || dirty.on_disk() > 0
}

/// Few keys may be waiting, and a fence must come back fast.
pub(super) async fn backlog(tracker: &Tracker, fence: &Fence) -> Result<Option<Obstacle>> {
    let took = fence.pass(FENCE_LIMIT).await?;
    if took > FAST {
        let text = format!("logical decoding lags: a message took {} ms", took.as_millis());
        return Ok(Some(Obstacle::new(text)));
    }
    Ok(until_few(tracker, DRAINED).await)
}

/// Waits until few keys wait, no longer than `limit`.
pub(super) async fn until_few(tracker: &Tracker, limit: Duration) -> Option<Obstacle> {
    let mut arrivals = tracker.arrivals();
    let deadline = Instant::now() + limit;
    while too_many(tracker) {
        if Instant::now() > deadline {
            let waiting = tracker.dirty().backlog();
            return Some(Obstacle::of_keys(format!("{waiting} changed keys wait to be applied")));
        }
        let _ = timeout(POLL, arrivals.changed()).await;
    }
    None
}

/// Transactions that have been holding a lock on the table, or on one of the `others` that are locked
/// with it, for long: do not queue behind them.
pub(super) async fn long_holders(
    observer: &Session,
    flow: &Flow,
    others: &[u32],
) -> Result<Option<Obstacle>> {
    let shadow = flow.target.root.to_string();
    long_users(observer, flow.captured.oid, others, Some(shadow)).await
}

/// The same of a table, of what is locked with it, and perhaps of one that is known by its name.
pub(super) async fn long_users(
    observer: &Session,
    table: u32,
    others: &[u32],
    named: Option<String>,
) -> Result<Option<Obstacle>> {
    let rows = observer
        .query(
            &format!(
                "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.pid IN (SELECT l.pid \
                 FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted \
                 AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
                 AND (l.relation = ANY(ARRAY[$1::pg_catalog.oid, pg_catalog.to_regclass($2)]) OR l.relation = ANY ($3))) \
                 AND NOT pg_catalog.starts_with(a.application_name, 'pgwraith/') \
                 AND a.backend_type <> 'autovacuum worker' \
                 AND a.xact_start < pg_catalog.clock_timestamp() - interval '{LONG}' \
                 ORDER BY a.xact_start LIMIT 3",
                Who::COLUMNS
            ),
            &[&table, &named, &others],
        )
        .await?;
    let of = if others.is_empty() { "the table" } else { "the table or what hangs on it" };
    let text = names(&rows).map(|who| format!("a long transaction uses {of}: {who}"));
    if text.is_some() {
        return Ok(text.map(Obstacle::new));
    }
    let prepared = observer
        .query(
            "SELECT l.virtualtransaction FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' \
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
             AND l.pid IS NULL AND l.granted AND (l.relation = $1 OR l.relation = ANY ($2))",
            &[&table, &others],
        )
        .await?;
    Ok(prepared.first().map(|r| {
        let number: &str = r.get(0);
        Obstacle::new(format!("prepared transaction {number} holds {of} (see pg_prepared_xacts)"))
    }))
}

/// Who is in the way of a backend.
#[derive(Default)]
pub(super) struct Blockers {
    pub(super) who: Option<String>,
    /// Whether they wait for that backend themselves, perhaps through others.
    pub(super) circle: bool,
}

/// Who blocks the backend `pid` right now.
pub(super) async fn blockers(observer: &Session, pid: i32) -> Result<Blockers> {
    let sql = format!(
        "WITH RECURSIVE first AS MATERIALIZED (SELECT pg_catalog.pg_blocking_pids($1) AS pids), \
         all_of_them (pid) AS (SELECT pg_catalog.unnest(first.pids) FROM first UNION \
           SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(b.pid)) FROM all_of_them b WHERE b.pid NOT IN (0, $1)) \
         SELECT {}, $1 IN (SELECT b.pid FROM all_of_them b) FROM first \
         JOIN pg_catalog.pg_stat_activity a ON a.pid = ANY (first.pids) LIMIT 3",
        Who::COLUMNS
    );
    let rows = observer.query(&sql, &[&pid]).await?;
    Ok(Blockers { circle: rows.iter().any(|row| row.get(5)), who: names(&rows) })
}

/// Whether anybody waits for a lock of the backend `pid`.
pub(super) async fn is_waited_for(observer: &Session, pid: i32) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks w WHERE NOT w.granted \
               AND $1 = ANY (pg_catalog.pg_blocking_pids(w.pid)))";
    Ok(observer.one(sql, &[&pid]).await?.get(0))
}

/// Ends what the backend `pid` is at.
pub(super) async fn cancel(observer: &Session, pid: i32) -> Result<()> {
    observer.query("SELECT pg_catalog.pg_cancel_backend($1)", &[&pid]).await.map(drop)
}

/// A lock is replayed on standbys too, behind their queries: between attempts let them catch up,
/// for a limited time.
pub(super) async fn wait_for_standbys(observer: &Session) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let position: crate::pg::Lsn =
        observer.one("SELECT pg_catalog.pg_current_wal_flush_lsn()", &[]).await?.get(0);
    while Instant::now() < deadline {
        let behind: bool = observer
            .one(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_replication r \
                 WHERE r.state = 'streaming' AND r.replay_lsn < $1 \
                 AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots s \
                   WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))",
                &[&position],
            )
            .await?
            .get(0);
        if !behind {
            return Ok(());
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn names(rows: &[tokio_postgres::Row]) -> Option<String> {
    Who::list(&rows.iter().map(Who::of).collect::<Vec<_>>())
}
