//! The session that locks, and what it works out before the lock.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Statement;

use super::Cutover;
use super::deadline::Deadline;
use super::look::{self, Obstacle};
use crate::catalog::{self, Carried, Fingerprint, FingerprintReader, Table};
use crate::change;
use crate::error::{Error, Kind, Result};
use crate::flow::differ::KeyComparison;
use crate::flow::sync::Statements;
use crate::flow::write::Isolation;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, quote_ident};
use crate::shadow::{self, Swap};

/// How long the first, harmless lock may take: autovacuum gives way after deadlock_timeout.
const PATIENT_LOCK: Duration = Duration::from_secs(10);

/// A tool that is stopped between two attempts blocks no application, but autovacuum and DDL: in
/// milliseconds, no longer than this. Above every pause we make ourselves.
const BETWEEN_ATTEMPTS: u32 = 60_000;

const PRIVILEGES: &str = "SELECT c.relacl::pg_catalog.text FROM pg_catalog.pg_class c \
    WHERE c.oid = ANY($1) ORDER BY c.oid";

/// The session that locks. Its transaction holds SHARE UPDATE EXCLUSIVE on both tables, which stops
/// DDL and autovacuum and blocks no read and no write; attempts are savepoints in it.
pub(super) struct Locker {
    pub(super) session: Session,
    pub(super) statements: Statements,
    pub(super) comparison: KeyComparison,
    /// The transaction's id, for looking its outcome up.
    pub(super) xid: String,
    pub(super) deadlock_timeout: Duration,
    pub(super) rehearsed: Rehearsed,
    fingerprint: FingerprintReader,
    read_privileges: Statement,
    broken: bool,
}

/// What was worked out before the lock. DDL is locked out by the first lock, so that it stays true;
/// what is not, privileges, is looked at again under the lock.
pub(super) struct Rehearsed {
    /// The renames.
    pub(super) statements: Vec<String>,
    /// Both tables and their sequences, and their privileges.
    objects: Vec<u32>,
    privileges: Vec<Option<String>>,
}

/// What is looked at once more under the lock.
pub(super) struct Seen {
    pub(super) fingerprint: Fingerprint,
    pub(super) privileges_as_before: bool,
}

impl Locker {
    /// Opens the transaction, takes the first lock with patience, and works everything out.
    pub(super) async fn open(
        cutover: &Cutover<'_>,
        observer: &Session,
    ) -> Result<Result<Locker, Obstacle>> {
        let role = format!("{}/cutover", cutover.flow.migration);
        let session = cutover.connector.session(&role).await?;
        let statements = Statements::prepare(&session, &cutover.flow).await?;
        let comparison = KeyComparison::prepare(&session, &cutover.flow).await?;
        let fingerprint = FingerprintReader::prepare(&session).await?;
        let read_privileges = session.prepare(PRIVILEGES).await?;
        let sql = "SELECT pg_catalog.date_part('epoch', \
                   pg_catalog.current_setting('deadlock_timeout')::interval)";
        let deadlock_timeout = Duration::from_secs_f64(session.one(sql, &[]).await?.get(0));
        cutover.writer.begin(&session, Isolation::ReadCommitted).await?;
        let xid = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
        let xid: String = session.one(xid, &[]).await?.get(0);
        if let Err(obstacle) = first_lock(cutover, observer, &session, deadlock_timeout).await? {
            return Ok(Err(obstacle));
        }
        let (oid, publication) = (cutover.flow.captured.oid, &cutover.flow.publication);
        let now = fingerprint.read(&session, oid, publication).await?;
        cutover.fingerprint.check(&now, &cutover.names.source.to_string())?;
        let tables = Tables::read(cutover, observer, &session).await?;
        let objects = tables.objects();
        let privileges = privileges(&session, &read_privileges, &objects).await?;
        let rehearsed = Rehearsed { statements: tables.renames(cutover), objects, privileges };
        Ok(Ok(Locker {
            session,
            statements,
            comparison,
            xid,
            deadlock_timeout,
            rehearsed,
            fingerprint,
            read_privileges,
            broken: false,
        }))
    }

    /// Runs every statement of the lock on nothing, so that it is planned and its catalogs are read.
    pub(super) async fn warm(&self, cutover: &Cutover<'_>) -> Result<()> {
        cutover.writer.as_owner(&self.session).await?;
        self.statements.warm(&self.session, &cutover.flow).await?;
        self.comparison.run(&self.session, &cutover.flow, &[]).await?;
        cutover.writer.as_tool(&self.session).await?;
        self.look(cutover).await.map(drop)
    }

    /// Looks at what DDL and GRANT may have changed.
    pub(super) async fn look(&self, cutover: &Cutover<'_>) -> Result<Seen> {
        let (oid, publication) = (cutover.flow.captured.oid, &cutover.flow.publication);
        let (fingerprint, now) = tokio::try_join!(
            self.fingerprint.read(&self.session, oid, publication),
            privileges(&self.session, &self.read_privileges, &self.rehearsed.objects),
        )?;
        Ok(Seen { fingerprint, privileges_as_before: now == self.rehearsed.privileges })
    }

    /// The backend that holds the first lock.
    pub(super) fn pid(&self) -> i32 {
        self.session.pid()
    }

    /// Whether the transaction is gone, and with it the first lock, or what was worked out is stale.
    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.session.is_closed()
    }

    /// Gives the lock back at once: to the savepoint, or with the whole session.
    pub(super) async fn back_out(&mut self) {
        let lift = Deadline::lift(self.session.version());
        let back = format!("ROLLBACK TO SAVEPOINT attempt; {lift}");
        if self.session.batch(&back).await.is_err() {
            self.broken = true;
            self.session.rollback().await;
        }
    }

    /// What was worked out does not hold any more; the next attempt begins with another locker.
    pub(super) fn make_stale(&mut self) {
        self.broken = true;
    }
}

async fn first_lock(
    cutover: &Cutover<'_>,
    observer: &Session,
    session: &Session,
    deadlock_timeout: Duration,
) -> Result<Result<(), Obstacle>> {
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
    match watch(observer, session.pid(), PATIENT_LOCK / 2, session.batch(&lock)).await {
        (Ok(()), _) => Ok(Ok(())),
        (Err(e), who) if classify(&e) == Class::Late => Ok(Err(late(&e, who))),
        (Err(e), _) => Err(e.context("taking the first lock of the cutover")),
    }
}

/// Both tables as they are now that nobody can alter them, and what the change makes of the source.
///
/// What somebody changed in mid-run and a run carries (comments, privileges, statistics) is in the
/// source by now, so that the change is rehearsed once more: what it makes of it, PostgreSQL says.
struct Tables {
    source: Table,
    target: Table,
    shadow: Table,
    carried: Vec<Carried>,
    taken: HashSet<String>,
}

impl Tables {
    async fn read(cutover: &Cutover<'_>, observer: &Session, session: &Session) -> Result<Tables> {
        let gone = || Error::failed("a table of the migration is gone");
        let row = session
            .one(
                "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, \
                 ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
                   WHERE c.relnamespace = pg_catalog.to_regnamespace($2) \
                   UNION SELECT x.stxname FROM pg_catalog.pg_statistic_ext x)",
                &[&cutover.names.shadow.to_string(), &quote_ident(&cutover.names.source.schema)],
            )
            .await?;
        let shadow: Option<u32> = row.get(0);
        let source = catalog::read(session, cutover.flow.captured.oid).await?.ok_or_else(gone)?;
        let shadow = catalog::read(session, shadow.ok_or_else(gone)?).await?.ok_or_else(gone)?;
        let carried = catalog::carried(session, source.oid).await?;
        let taken = row.get::<_, Vec<String>>(1).into_iter().collect();
        let target = rehearse(cutover, observer, &source).await?;
        Ok(Tables { source, target, shadow, carried, taken })
    }

    fn renames(&self, cutover: &Cutover<'_>) -> Vec<String> {
        let swap = Swap {
            names: cutover.names,
            source: &self.source,
            target: &self.target,
            shadow: &self.shadow,
            carried: &self.carried,
            taken: &self.taken,
        };
        shadow::statements(&swap.steps())
    }

    fn objects(&self) -> Vec<u32> {
        let tables = [&self.source, &self.shadow].into_iter();
        tables.flat_map(|t| t.sequences.iter().map(|s| s.oid).chain([t.oid])).collect()
    }
}

/// The table as it will be by what the source is now.
async fn rehearse(cutover: &Cutover<'_>, observer: &Session, source: &Table) -> Result<Table> {
    let stop = |what: String| {
        let next = "The copy is of no use any more: start again once what is left is removed";
        Err(Error::new(Kind::NotResumable, what).next(next))
    };
    let hung = catalog::attachments(observer, source.oid).await?;
    if let Some(first) = hung.first() {
        return stop(format!(
            "{} {} came to {} in mid-run, and cannot be carried over",
            first.kind, first.name, cutover.names.source
        ));
    }
    let target = match change::rehearse(observer, source, cutover.request).await {
        Ok(plan) => plan.target,
        Err(e) if e.is_connection_lost() || classify(&e) != Class::Definite => return Err(e),
        Err(e) => return stop(format!("the table was changed in mid-run: {}", e.what())),
    };
    if target.shape() != cutover.target.shape() {
        return stop(format!(
            "the change makes another table of {source_name} now than it did when the run began",
            source_name = cutover.names.source
        ));
    }
    Ok(target)
}

async fn privileges(
    session: &Session,
    statement: &Statement,
    objects: &[u32],
) -> Result<Vec<Option<String>>> {
    let rows = session.run(statement, &[&objects]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Runs `work` of the backend `pid`; where it takes longer than `after`, sees who blocks it.
pub(super) async fn watch<T>(
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

/// A lock that was not granted in time.
pub(super) fn late(e: &Error, who: Option<String>) -> Obstacle {
    match who {
        Some(who) => Obstacle::new(format!("the table's lock is held by {who}")),
        None => Obstacle::new(format!("the table's lock was not granted in time ({})", e.what())),
    }
}
