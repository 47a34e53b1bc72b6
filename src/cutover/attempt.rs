//! One attempt: from the first LOCK to COMMIT, or back to before the LOCK.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Statement;

use super::deadline::Deadline;
use super::look::{self, Obstacle};
use super::{Cutover, outcome};
use crate::catalog::{self, FingerprintReader};
use crate::error::{Error, Kind, Result};
use crate::flow::differ::KeyComparison;
use crate::flow::dirty::Batch;
use crate::flow::key::Key;
use crate::flow::sync::Statements;
use crate::flow::write::{Alone, Isolation};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, Snapshot, quote_ident};
use crate::shadow::Swap;

/// How long the first, harmless lock may take: autovacuum gives way after deadlock_timeout.
const PATIENT_LOCK: Duration = Duration::from_secs(10);

/// A tool that is stopped between two attempts blocks no application, but autovacuum and DDL: in
/// milliseconds, no longer than this. Above every pause we make ourselves.
const BETWEEN_ATTEMPTS: u32 = 60_000;

/// The session that locks. Its transaction holds SHARE UPDATE EXCLUSIVE on the source, which stops
/// DDL and autovacuum and blocks no read and no write; attempts are savepoints in it.
pub(super) struct Locker {
    session: Session,
    statements: Statements,
    comparison: KeyComparison,
    fingerprint: FingerprintReader,
    privileges: Statement,
    /// The transaction's id, for looking its outcome up.
    xid: String,
    deadlock_timeout: Duration,
    taken: HashSet<String>,
    broken: bool,
}

/// What was worked out before the lock.
struct Rehearsed {
    statements: Vec<String>,
    /// Both tables and their sequences, and their privileges.
    objects: Vec<u32>,
    privileges: Vec<Option<String>>,
}

const PRIVILEGES: &str = "SELECT c.relacl::pg_catalog.text FROM pg_catalog.pg_class c \
    WHERE c.oid = ANY($1) ORDER BY c.oid";

/// How an attempt ended.
pub(super) enum Tried {
    /// Nobody may write by the old names any more: the door stays shut until the workers are gone.
    Swapped { lock_held: Duration, stall: Duration, shut: Alone },
    /// Rolled back; the application goes on with the old table.
    Late(Obstacle),
}

impl Locker {
    /// Opens the transaction and takes the first lock, with patience.
    pub(super) async fn open(
        cutover: &Cutover<'_>,
        observer: &Session,
    ) -> Result<Result<Locker, Obstacle>> {
        let role = format!("{}/cutover", cutover.flow.migration);
        let session = cutover.connector.session(&role).await?;
        let statements = Statements::prepare(&session, &cutover.flow).await?;
        let comparison = KeyComparison::prepare(&session, &cutover.flow).await?;
        let fingerprint = FingerprintReader::prepare(&session).await?;
        let privileges = session.prepare(PRIVILEGES).await?;
        let row = session
            .one(
                "SELECT pg_catalog.date_part('epoch', pg_catalog.current_setting('deadlock_timeout')::interval), \
                 COALESCE((SELECT pg_catalog.array_agg(c.relname::pg_catalog.text) FROM pg_catalog.pg_class c \
                   WHERE c.relnamespace = pg_catalog.to_regnamespace($1)), '{}')",
                &[&quote_ident(&cutover.names.source.schema)],
            )
            .await?;
        let deadlock_timeout = Duration::from_secs_f64(row.get(0));
        let taken = row.get::<_, Vec<String>>(1).into_iter().collect();
        cutover.writer.begin(&session, Isolation::ReadCommitted).await?;
        let xid = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
        let xid: String = session.one(xid, &[]).await?.get(0);
        let patience = PATIENT_LOCK.max(3 * deadlock_timeout).as_millis();
        let lock = format!(
            "SET LOCAL lock_timeout = {patience}; \
             SET LOCAL client_connection_check_interval = 100; \
             SET LOCAL idle_in_transaction_session_timeout = {BETWEEN_ATTEMPTS}; \
             LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE; \
             LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE",
            // Autovacuum may be at work on the shadow too by now.
            cutover.names.shadow,
            cutover.names.source
        );
        let pid = session.pid();
        match watch(observer, pid, PATIENT_LOCK / 2, session.batch(&lock)).await {
            (Ok(()), _) => {}
            (Err(e), who) if classify(&e) == Class::Late => {
                return Ok(Err(late(&e, who)));
            }
            (Err(e), _) => return Err(e.context("taking the first lock of the cutover")),
        }
        Ok(Ok(Locker {
            session,
            statements,
            comparison,
            fingerprint,
            privileges,
            xid,
            deadlock_timeout,
            taken,
            broken: false,
        }))
    }

    /// Everything that can be read, planned and rendered before the lock. DDL on the source is
    /// locked out by now; what is not, privileges, is looked at again under the lock.
    async fn rehearse(&self, cutover: &Cutover<'_>) -> Result<Rehearsed> {
        let session = &self.session;
        cutover.writer.as_owner(session).await?;
        self.statements.warm(session, &cutover.flow).await?;
        self.comparison.run(session, &cutover.flow, &[]).await?;
        cutover.writer.as_tool(session).await?;
        let (oid, publication) = (cutover.flow.captured.oid, &cutover.flow.publication);
        self.fingerprint.read(session, oid, publication).await?;
        let gone = || Error::failed("a table of the migration is gone");
        let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
        let shadow: Option<u32> =
            session.one(sql, &[&cutover.names.shadow.to_string()]).await?.get(0);
        let source = catalog::read(session, oid).await?.ok_or_else(gone)?;
        let shadow = catalog::read(session, shadow.ok_or_else(gone)?).await?.ok_or_else(gone)?;
        let swap = Swap {
            names: cutover.names,
            source: &source,
            target: cutover.target,
            shadow: &shadow,
            taken: &self.taken,
        };
        let tables = [&source, &shadow];
        let objects: Vec<u32> =
            tables.iter().flat_map(|t| t.sequences.iter().map(|s| s.oid).chain([t.oid])).collect();
        let privileges = self.read_privileges(&objects).await?;
        Ok(Rehearsed { statements: swap.statements(), objects, privileges })
    }

    async fn read_privileges(&self, objects: &[u32]) -> Result<Vec<Option<String>>> {
        let rows = self.session.run(&self.privileges, &[&objects]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The backend that holds the first lock.
    pub(super) fn pid(&self) -> i32 {
        self.session.pid()
    }

    /// Whether the transaction is gone, and with it the first lock.
    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.session.is_closed()
    }

    /// One attempt. `Err` only for what further attempts cannot cure.
    pub(super) async fn attempt(
        &mut self,
        cutover: &Cutover<'_>,
        observer: &Session,
        open: &HashSet<Key>,
        synced: &Snapshot,
    ) -> Result<Tried> {
        let rehearsed = self.rehearse(cutover).await?;
        // No sync of ours may hold a lock on the shadow, or write it later with an older snapshot.
        let alone = cutover.door.alone().await;
        let started = Instant::now();
        let deadline = Deadline::after(cutover.limits.max_lock_hold);
        let mut batch = None;
        let mut granted = None;
        let done = self
            .under_lock(
                &rehearsed,
                cutover,
                observer,
                open,
                synced,
                deadline,
                &mut granted,
                &mut batch,
            )
            .await;
        let result = match done {
            Ok(()) => {
                let held = granted.unwrap_or(started).elapsed();
                return Ok(Tried::Swapped {
                    lock_held: held,
                    stall: started.elapsed(),
                    shut: alone,
                });
            }
            Err(Stop::Late(obstacle)) => {
                self.back_out().await;
                Ok(Tried::Late(obstacle))
            }
            Err(Stop::Definite(e)) => {
                self.back_out().await;
                Err(e)
            }
        };
        if let Some(batch) = batch {
            cutover.tracker.dirty().abandon(batch);
        }
        drop(alone);
        result
    }

    /// Gives the lock back at once: to the savepoint, or with the whole session.
    async fn back_out(&mut self) {
        if self.session.batch("ROLLBACK TO SAVEPOINT attempt").await.is_err() {
            self.broken = true;
            self.session.rollback().await;
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn under_lock(
        &mut self,
        rehearsed: &Rehearsed,
        cutover: &Cutover<'_>,
        observer: &Session,
        open: &HashSet<Key>,
        synced: &Snapshot,
        deadline: Deadline,
        granted: &mut Option<Instant>,
        batch: &mut Option<Batch>,
    ) -> Result<(), Stop> {
        self.lock(cutover, observer, deadline, granted).await?;
        // Everything the application committed is in the log before this fence.
        cutover.fence.pass(deadline.left()).await.map_err(Stop::of)?;
        self.check(rehearsed, cutover, observer, synced, deadline).await?;
        let Ok(all) = cutover.tracker.dirty().select_all() else {
            return Err(Stop::Late(Obstacle::new(
                "changes arrived that cannot be applied in time",
            )));
        };
        let selected = batch.insert(all);
        self.final_sync(cutover, selected, open, deadline).await?;
        self.rename(rehearsed, cutover, deadline).await?;
        self.commit(cutover, deadline).await
    }

    /// The shadow first, where nobody waits, then the source; from the first request to the last
    /// grant no longer than half of deadlock_timeout: we yield, never the application.
    async fn lock(
        &self,
        cutover: &Cutover<'_>,
        observer: &Session,
        deadline: Deadline,
        granted: &mut Option<Instant>,
    ) -> Result<(), Stop> {
        let budget = Deadline::after(cutover.limits.lock_timeout.min(self.deadlock_timeout / 2));
        let version = self.session.version();
        let mut save = "SAVEPOINT attempt; ";
        for table in [&cutover.names.shadow, &cutover.names.source] {
            let sql = format!(
                "{save}{}SET LOCAL lock_timeout = {}; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE",
                deadline.settings(version),
                budget.left().as_millis().max(1)
            );
            save = "";
            let pid = self.session.pid();
            let wait = cutover.limits.lock_timeout / 3;
            let (locked, who) = watch(observer, pid, wait, self.session.batch(&sql)).await;
            if let Err(e) = locked {
                return Err(match classify(&e) {
                    Class::Late | Class::Transient => Stop::Late(late(&e, who)),
                    _ => Stop::of(e),
                });
            }
            granted.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// What must still be as it was, looked at once more under the lock.
    async fn check(
        &self,
        rehearsed: &Rehearsed,
        cutover: &Cutover<'_>,
        observer: &Session,
        synced: &Snapshot,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        self.limit(deadline).await?;
        let (oid, publication) = (cutover.flow.captured.oid, &cutover.flow.publication);
        let looks = async {
            tokio::try_join!(
                self.fingerprint.read(&self.session, oid, publication),
                self.read_privileges(&rehearsed.objects),
                look::holders_of_old_snapshots(observer, synced),
            )
        };
        let (now, privileges, old) = looks.await.map_err(Stop::of)?;
        let table = cutover.names.source.to_string();
        cutover.fingerprint.check(&now, &table).map_err(Stop::Definite)?;
        if privileges != rehearsed.privileges {
            return Err(Stop::Late(Obstacle::new("privileges were changed just now")));
        }
        match old {
            Some(who) => Err(Stop::Late(Obstacle::new(format!(
                "older snapshots would see the new table as it was: {who}"
            )))),
            None => Ok(()),
        }
    }

    async fn final_sync(
        &self,
        cutover: &Cutover<'_>,
        batch: &Batch,
        open: &HashSet<Key>,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        self.limit(deadline).await?;
        let flow = &cutover.flow;
        cutover.writer.as_owner(&self.session).await.map_err(Stop::of)?;
        let keys: Vec<&Key> = batch.keys().collect();
        if !keys.is_empty() {
            self.statements.apply_all(&self.session, flow, &keys).await.map_err(Stop::of)?;
        }
        let mut compare: HashSet<Key> = open.clone();
        compare.extend(batch.keys().cloned());
        let compare: Vec<Key> = compare.into_iter().collect();
        if compare.is_empty() {
            return Ok(());
        }
        let differing =
            self.comparison.run(&self.session, flow, &compare).await.map_err(Stop::of)?;
        match differing.first() {
            Some(d) => Err(Stop::Definite(Error::new(
                Kind::DataDiffers,
                format!("source and shadow differ under the lock: {}", d.text),
            ))),
            None => Ok(()),
        }
    }

    async fn rename(
        &self,
        rehearsed: &Rehearsed,
        cutover: &Cutover<'_>,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        // Deferred constraints may have checks pending from the final sync, which would make the
        // renames fail.
        let left = deadline.left();
        let mut sql =
            format!("{}SET CONSTRAINTS ALL IMMEDIATE", deadline.settings(self.session.version()));
        for statement in &rehearsed.statements {
            sql.push_str(";\n");
            sql.push_str(statement);
        }
        let migration = cutover.flow.migration;
        sql.push_str(&format!(
            ";\nSET LOCAL ROLE NONE; \
             UPDATE pgwraith.migration SET phase = 'done', outcome = 'swapped', \
             finished_at = pg_catalog.clock_timestamp() WHERE id = {migration}; \
             DELETE FROM pgwraith.dirty WHERE migration_id = {migration}; \
             INSERT INTO pgwraith.event (migration_id, what) VALUES ({migration}, 'swapped')"
        ));
        // The time that these took is gone: a tool that is stopped now gets only the rest.
        sql.push_str(&format!(
            ";\nSELECT pg_catalog.set_config('idle_in_transaction_session_timeout', GREATEST(1, {} - \
             (EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) \
             * 1000)::pg_catalog.int8)::pg_catalog.text, true)",
            left.as_millis()
        ));
        self.session.batch(&sql).await.map_err(Stop::of)
    }

    async fn commit(&self, cutover: &Cutover<'_>, deadline: Deadline) -> Result<(), Stop> {
        if deadline.is_over() {
            return Err(Stop::Late(Obstacle::new("the deadline was over before COMMIT")));
        }
        match self.session.batch("COMMIT").await {
            Ok(()) => Ok(()),
            Err(e) if e.db().is_some() && !self.session.is_closed() => Err(Stop::of(e)),
            Err(_) => {
                let role = format!("{}/outcome", cutover.flow.migration);
                match outcome::committed(cutover.connector, &role, &self.xid).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Stop::Late(Obstacle::new("the connection broke at COMMIT"))),
                    Err(e) => Err(Stop::Definite(e)),
                }
            }
        }
    }

    async fn limit(&self, deadline: Deadline) -> Result<(), Stop> {
        let sql = deadline.settings(self.session.version());
        self.session.batch(&sql).await.map_err(Stop::of)
    }
}

/// Why an attempt stopped.
enum Stop {
    Late(Obstacle),
    Definite(Error),
}

impl Stop {
    fn of(e: Error) -> Stop {
        match classify(&e) {
            Class::Late | Class::Transient | Class::ConnectionLost => {
                Stop::Late(Obstacle::new(e.what()))
            }
            // A fence that did not return in time.
            Class::Definite if e.kind() == Kind::Failed && e.db().is_none() => {
                Stop::Late(Obstacle::new(e.what()))
            }
            Class::Duplicate => Stop::Definite(e.with_kind(Kind::DataDiffers)),
            _ => Stop::Definite(e),
        }
    }
}

fn late(e: &Error, who: Option<String>) -> Obstacle {
    match who {
        Some(who) => Obstacle::new(format!("the table's lock is held by {who}")),
        None => Obstacle::new(format!("the table's lock was not granted in time ({})", e.what())),
    }
}

/// Runs `work` of the backend `pid`; where it takes longer than `after`, sees who blocks it.
async fn watch<T>(
    observer: &Session,
    pid: i32,
    after: Duration,
    work: impl Future<Output = Result<T>>,
) -> (Result<T>, Option<String>) {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return (done, None),
        _ = sleep(after) => {}
    }
    let (done, who) = tokio::join!(work, look::blockers(observer, pid));
    (done, who.ok().flatten())
}
