//! Sees that nothing hangs without a word: tells for whom a session of ours waits, and notices an answer
//! that was given and never arrived.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::teardown::session_names;
use crate::error::{Error, Result};
use crate::pg::unanswered::Unanswered;
use crate::pg::{Lossy, Session, Who};
use crate::telemetry::{Meter, Sample, Waits};

const EVERY: Duration = Duration::from_secs(5);
/// A wait is told once it has lasted so long, and again each time it has lasted twice as long.
const WORTH_TELLING: Duration = Duration::from_secs(10);
/// The server has answered so long ago: the answer is lost, and the connection with it.
const ANSWER_LOST: Duration = Duration::from_secs(20);
/// A server that does not answer the simplest question in this time is not reached any more.
const REACHED: Duration = Duration::from_secs(30);

/// Watches over the sessions of one stretch.
pub(super) struct Watchdog {
    /// Used by the watchdog alone.
    pub(super) session: Session,
    pub(super) migration: i64,
    pub(super) unanswered: Unanswered,
    pub(super) meter: Meter,
}

impl Watchdog {
    /// Works until `end`; fails where a connection is lost and nobody was told.
    pub(super) async fn watch(self, end: CancellationToken) -> Result<()> {
        let watched = self.look_after(end).await;
        self.meter.tell(Sample::Watched(None));
        watched
    }

    async fn look_after(&self, end: CancellationToken) -> Result<()> {
        let mut told: HashMap<String, (Instant, Duration)> = HashMap::new();
        loop {
            if timeout(EVERY, end.cancelled()).await.is_ok() {
                return Ok(());
            }
            let look = async {
                self.answers().await?;
                self.waits(&mut told).await
            };
            let waits = timeout(REACHED, look)
                .await
                .unwrap_or_else(|_| Err(Error::lost("the server does not answer any more")))?;
            self.meter.tell(Sample::Watched(Some(waits)));
        }
    }

    /// **Who waits for an answer that was given.** A backend that is idle, or gone, owes none.
    async fn answers(&self) -> Result<()> {
        let late = self.unanswered.longer_than(ANSWER_LOST);
        if late.is_empty() {
            return Ok(());
        }
        let sql = "SELECT u.pid FROM pg_catalog.unnest($1::pg_catalog.int4[]) u (pid) \
                   LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = u.pid \
                   WHERE a.pid IS NULL OR a.state <> 'active' \
                     AND a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)";
        let rows = self.session.query(sql, &[&late, &ANSWER_LOST.as_secs_f64()]).await?;
        let lost: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        // Still: it may have come while we asked.
        let still = self.unanswered.longer_than(ANSWER_LOST);
        match lost.iter().find(|pid| still.contains(pid)) {
            None => Ok(()),
            Some(pid) => Err(Error::lost(format!(
                "backend {pid} gave an answer more than {} s ago that did not arrive: the connection is lost",
                ANSWER_LOST.as_secs()
            ))),
        }
    }

    /// Which session of ours waits for whom, for long.
    async fn waits(&self, told: &mut HashMap<String, (Instant, Duration)>) -> Result<Waits> {
        let mut waits = self.for_locks().await?;
        let mut all = Waits { ours: waits.len() as u64, ..Waits::default() };
        all.others = waiting_for_ours(&self.session, self.migration).await?;
        waits.extend(self.for_standbys().await?);
        let mut seen = HashMap::new();
        for wait in waits {
            let (since, mut next) =
                told.remove(&wait.of).unwrap_or_else(|| (Instant::now(), WORTH_TELLING));
            let role = wait.who.rsplit('/').next().unwrap_or_default();
            let seconds = since.elapsed().as_secs();
            let waits = format!("{role:?} has been waiting for {seconds} s for {}", wait.for_whom);
            if since.elapsed() >= next {
                self.meter.note(format!("{waits}{}", wait.query));
                next = since.elapsed() * 2;
            }
            if since.elapsed() >= WORTH_TELLING {
                all.long.push(waits);
            }
            seen.insert(wait.of, (since, next));
        }
        *told = seen;
        Ok(all)
    }

    async fn for_locks(&self) -> Result<Vec<Wait>> {
        let sql = format!(
            "SELECT {}, w.application_name FROM pg_catalog.pg_stat_activity w, \
               LATERAL (SELECT b.* FROM pg_catalog.pg_stat_activity b \
                 WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) ORDER BY b.pid LIMIT 1) a \
             WHERE w.application_name LIKE $1 AND w.wait_event_type = 'Lock' \
               AND w.datname = pg_catalog.current_database()",
            Who::COLUMNS
        );
        let rows = self.session.query(&sql, &[&session_names(self.migration)]).await?;
        let wait = |row: &tokio_postgres::Row| {
            let (blocker, who) = (Who::of(row), row.get::<_, Lossy>(5));
            let of = format!("{who} {}", blocker.pid);
            Wait { of, who: who.0, for_whom: blocker.identity(), query: blocker.doing() }
        };
        Ok(rows.iter().map(wait).collect())
    }

    /// From 17 on the stream may wait for standbys: see the check of the same name in preflight.
    async fn for_standbys(&self) -> Result<Vec<Wait>> {
        let sql = "SELECT a.application_name, pg_catalog.current_setting('synchronized_standby_slots', true) \
                   FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $1 \
                     AND a.wait_event = 'WaitForStandbyConfirmation'";
        let rows = self.session.query(sql, &[&session_names(self.migration)]).await?;
        let wait = |row: &tokio_postgres::Row| {
            let (who, slots): (Lossy, Option<Lossy>) = (row.get(0), row.get(1));
            let slots = slots.map(|slots| slots.0).unwrap_or_default();
            let for_whom = format!(
                "the standbys of synchronized_standby_slots ({slots}) to confirm what they have"
            );
            Wait { of: format!("{who} standbys"), who: who.0, for_whom, query: String::new() }
        };
        Ok(rows.iter().map(wait).collect())
    }
}

/// How many sessions wait for a lock that ours have; of more than a hundred only so many are looked at, since
/// each look at who blocks whom locks the server's table of locks.
pub(super) async fn waiting_for_ours(session: &Session, migration: i64) -> Result<u64> {
    let sql = "WITH ours AS MATERIALIZED (SELECT a.pid FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $1), \
                 locks AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks), \
                 waiting AS MATERIALIZED (SELECT DISTINCT w.pid FROM locks w JOIN locks h \
                     ON h.granted AND h.locktype = w.locktype AND h.database IS NOT DISTINCT FROM w.database \
                     AND h.relation IS NOT DISTINCT FROM w.relation \
                     AND h.transactionid IS NOT DISTINCT FROM w.transactionid \
                     AND h.virtualxid IS NOT DISTINCT FROM w.virtualxid \
                   WHERE NOT w.granted AND h.pid IN (SELECT o.pid FROM ours o) \
                     AND w.pid NOT IN (SELECT o.pid FROM ours o) LIMIT 100) \
               SELECT pg_catalog.count(*) FROM waiting w \
               WHERE pg_catalog.pg_blocking_pids(w.pid) OPERATOR(pg_catalog.&&) ARRAY(SELECT o.pid FROM ours o)";
    let row = session.one(sql, &[&session_names(migration)]).await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// One session's wait.
struct Wait {
    /// Tells it from others.
    of: String,
    who: String,
    for_whom: String,
    /// What those do.
    query: String,
}
