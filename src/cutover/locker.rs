//! The session that locks, and what it works out before the lock.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;

use super::Cutover;
use super::locks::{self, Locks};
use super::look::{self, Obstacle};
use crate::catalog::{
    self, Fingerprint, FingerprintReader, Mentions, MentionsReader, Stamp, StampReader, Table,
};
use crate::change::{self, Plan};
use crate::error::{Error, Kind, Result};
use crate::flow::differ::KeyComparison;
use crate::flow::sync::Statements;
use crate::flow::write::Isolation;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, quote_ident};
use crate::shadow::{self, Names, Step, Swap};

/// How long the first, harmless lock may take: autovacuum gives way after deadlock_timeout.
const PATIENT_LOCK: Duration = Duration::from_secs(10);

/// A tool that is stopped between the first lock and the attempt blocks no application, but autovacuum and
/// DDL: in milliseconds, no longer than this.
const BETWEEN_ATTEMPTS: u32 = 60_000;

/// The session that locks. Its transaction holds SHARE UPDATE EXCLUSIVE on both tables, which stops
/// DDL and autovacuum and blocks no read and no write. It is for one attempt.
pub(super) struct Locker {
    pub(super) session: Session,
    pub(super) statements: Statements,
    pub(super) comparison: KeyComparison,
    /// The transaction's id, for looking its outcome up.
    pub(super) xid: String,
    pub(super) deadlock_timeout: Duration,
    pub(super) rehearsed: Rehearsed,
    readers: Readers,
}

/// What is read under the lock, prepared.
struct Readers {
    fingerprint: FingerprintReader,
    stamp: StampReader,
    /// The same in the observer's session.
    outside: StampReader,
    mentions: MentionsReader,
}

impl Readers {
    async fn prepare(session: &Session, observer: &Session) -> Result<Readers> {
        Ok(Readers {
            outside: StampReader::prepare(observer).await?,
            fingerprint: FingerprintReader::prepare(session).await?,
            stamp: StampReader::prepare(session).await?,
            mentions: MentionsReader::prepare(session).await?,
        })
    }
}

/// What was worked out before the lock. The first one locks out DDL on the source, so that its shape
/// stays true; whether the rest did is looked at again under the lock.
pub(super) struct Rehearsed {
    pub(super) locks: Locks,
    /// The renames.
    pub(super) statements: Vec<String>,
    /// What is left to do after the swap.
    pub(super) afterwards: Vec<Step>,
    /// The partitions of the shadow that have rows: so many.
    pub(super) leaves: usize,
    /// Source and shadow.
    tables: [u32; 2],
    stamp: Stamp,
    mentions: Mentions,
}

/// What is looked at once more under the lock.
pub(super) struct Seen {
    pub(super) fingerprint: Fingerprint,
    pub(super) all_as_before: bool,
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
        let readers = Readers::prepare(&session, observer).await?;
        let deadlock_timeout = deadlock_timeout(&session).await?;
        cutover.writer.begin(&session, Isolation::ReadCommitted).await?;
        let xid = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
        let xid: String = session.one(xid, &[]).await?.get(0);
        if let Err(obstacle) = first_lock(cutover, observer, &session, deadlock_timeout).await? {
            return Ok(Err(obstacle));
        }
        let oid = cutover.flow.captured.oid;
        let now = readers.fingerprint.read(&session, cutover.flow.watched()).await?;
        cutover.fingerprint.check(&now, &cutover.names.source.to_string())?;
        if let Some(obstacle) = new_partitions(cutover, &now) {
            return Ok(Err(obstacle));
        }
        if let Some(obstacle) = passing(&session, oid).await? {
            return Ok(Err(obstacle));
        }
        let rehearsed =
            match Rehearsed::prepare(cutover, &session, &readers, deadlock_timeout / 2).await {
                Ok(rehearsed) => rehearsed,
                // What hangs on the table is looked at too, and may be locked just now.
                Err(e) if classify(&e) == Class::Late => return Ok(Err(late(&e, None))),
                // Or dropped while its definition was read.
                Err(e) if classify(&e) == Class::Transient => {
                    return Ok(Err(Obstacle::new(e.what())));
                }
                Err(e) => return Err(e),
            };
        Ok(Ok(Locker {
            session,
            statements,
            comparison,
            xid,
            deadlock_timeout,
            rehearsed,
            readers,
        }))
    }

    /// Runs every statement of the lock on nothing, so that it is planned and its catalogs are read. (Measured: of 35 ms
    /// under the lock the observer's first look took 8.)
    pub(super) async fn warm(&self, cutover: &Cutover<'_>, observer: &Session) -> Result<()> {
        cutover.writer.as_owner(&self.session).await?;
        self.statements.warm(&self.session, &cutover.flow).await?;
        self.comparison.run(&self.session, &cutover.flow, &[]).await?;
        cutover.writer.as_tool(&self.session).await?;
        let tables = &self.rehearsed.tables;
        self.readers.outside.read(observer, tables, self.session.pid()).await?;
        self.look(cutover).await.map(drop)
    }

    /// Looks at what somebody may have changed.
    pub(super) async fn look(&self, cutover: &Cutover<'_>) -> Result<Seen> {
        let (fingerprint, now) = tokio::try_join!(
            self.readers.fingerprint.read(&self.session, cutover.flow.watched()),
            self.readers.stamp.read(&self.session, &self.rehearsed.tables, self.session.pid()),
        )?;
        Ok(Seen { fingerprint, all_as_before: now == self.rehearsed.stamp })
    }

    /// Whether everything that was read again by name, under the lock, had the name that was written; and
    /// whether nothing was committed by others since the look: GRANT takes no lock that would keep it out.
    /// Another session sees nothing of our own changes yet. (One that comes still later meets our own
    /// version of the row and fails, but for a GRANT on a column, which has until COMMIT.)
    pub(super) async fn still_holds(&self, observer: &Session) -> Result<bool> {
        let Rehearsed { tables, mentions, stamp, .. } = &self.rehearsed;
        let (names, now) = tokio::try_join!(
            self.readers.mentions.as_before(&self.session, mentions),
            self.readers.outside.read(observer, tables, self.session.pid()),
        )?;
        Ok(names && now == *stamp)
    }
}

/// Who watches the source takes them in, which takes a moment.
pub(super) fn new_partitions(cutover: &Cutover<'_>, now: &Fingerprint) -> Option<Obstacle> {
    let came = cutover.fingerprint.new_partitions(now);
    (!came.is_empty()).then(|| Obstacle::new("a partition came to the table just now"))
}

/// What hangs on the table and cannot follow, but may be gone soon.
async fn passing(session: &Session, oid: u32) -> Result<Option<Obstacle>> {
    let passing = catalog::passing(session, oid).await?;
    if !passing.is_empty() {
        let what = format!("{}, of a session that may still drop it", passing.join(", "));
        return Ok(Some(Obstacle::new(what)));
    }
    let invalid = catalog::invalid_indexes(session, oid).await?;
    Ok((!invalid.is_empty()).then(|| {
        Obstacle::new(format!("{}: REINDEX INDEX CONCURRENTLY or DROP it", invalid.join(", ")))
    }))
}

/// After so long the server looks for a circle of waits.
pub(super) async fn deadlock_timeout(session: &Session) -> Result<Duration> {
    let sql = "SELECT pg_catalog.date_part('epoch', \
               pg_catalog.current_setting('deadlock_timeout')::interval)";
    Ok(Duration::from_secs_f64(session.one(sql, &[]).await?.get(0)))
}

async fn first_lock(
    cutover: &Cutover<'_>,
    observer: &Session,
    session: &Session,
    deadlock_timeout: Duration,
) -> Result<Result<(), Obstacle>> {
    // Autovacuum may be at work on the shadow too by now, or on its partitions.
    let Names { shadow, .. } = cutover.names;
    let tables = [format!("TABLE {shadow}"), format!("TABLE {}", cutover.flow.captured.itself())];
    lock_out_ddl(observer, session, deadlock_timeout, &tables).await
}

/// Takes SHARE UPDATE EXCLUSIVE on the tables with patience: autovacuum yields, DDL waits, reads and writes pass.
pub(super) async fn lock_out_ddl(
    observer: &Session,
    session: &Session,
    deadlock_timeout: Duration,
    tables: &[String],
) -> Result<Result<(), Obstacle>> {
    let patience = PATIENT_LOCK.max(3 * deadlock_timeout).as_millis();
    let mut lock = format!(
        "SET LOCAL lock_timeout = {patience}; \
         SET LOCAL client_connection_check_interval = 100; \
         SET LOCAL idle_in_transaction_session_timeout = {BETWEEN_ATTEMPTS}"
    );
    for table in tables {
        lock.push_str(&format!("; LOCK {table} IN SHARE UPDATE EXCLUSIVE MODE"));
    }
    match watch(observer, session.pid(), PATIENT_LOCK / 2, session.batch(&lock)).await {
        (Ok(()), _) => Ok(Ok(())),
        (Err(e), who) if classify(&e) == Class::Late => Ok(Err(late(&e, who))),
        (Err(e), _) => Err(e.context("taking the first lock of the cutover")),
    }
}

impl Rehearsed {
    /// What somebody changed in mid-run and a run carries (comments, privileges, a view) is in the
    /// catalogs by now, so that the change is rehearsed once more: PostgreSQL says what it makes of the
    /// source as it is.
    async fn prepare(
        cutover: &Cutover<'_>,
        session: &Session,
        readers: &Readers,
        most: Duration,
    ) -> Result<Rehearsed> {
        let gone = || Error::failed("a table of the migration is gone");
        let (names, oid) = (cutover.names, cutover.flow.captured.oid);
        let row = session
            .one(
                "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, \
                 ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
                   WHERE c.relnamespace = pg_catalog.to_regnamespace($2) \
                   UNION SELECT x.stxname FROM pg_catalog.pg_statistic_ext x)",
                &[&names.shadow.to_string(), &quote_ident(&names.source.schema)],
            )
            .await?;
        let tables = [oid, row.get::<_, Option<u32>>(0).ok_or_else(gone)?];
        let taken: HashSet<String> = row.get::<_, Vec<String>>(1).into_iter().collect();
        // First: what changes while the rest is read shows under the lock.
        let mentions = readers.mentions.read(session, &tables).await?;
        let stamp = readers.stamp.read(session, &tables, session.pid()).await?;
        let source = catalog::read(session, oid).await?.ok_or_else(gone)?;
        let shadow = catalog::read(session, tables[1]).await?.ok_or_else(gone)?;
        let plan = rehearse(cutover, session, &source, most).await?;
        let (target, carried) = (&plan.target, &plan.carried[..]);
        let (leaves, version) = (cutover.flow.target.leaves(), session.version());
        let renamed = cutover.partitioning.map_or_else(Vec::new, |p| p.renamed(&names.shadow));
        let swap = Swap {
            names,
            source: &source,
            target,
            shadow: &shadow,
            carried,
            leaves: &leaves,
            renamed: &renamed,
            version,
            taken: &taken,
        };
        Ok(Rehearsed {
            locks: locks::locks(&names.shadow, &source, target, carried),
            statements: shadow::statements(&swap.steps()),
            afterwards: swap.to_do(),
            leaves: leaves.len(),
            tables,
            stamp,
            mentions,
        })
    }
}

/// What the change makes of the source as it is now.
async fn rehearse(
    cutover: &Cutover<'_>,
    session: &Session,
    source: &Table,
    most: Duration,
) -> Result<Plan> {
    let lock_timeout = (cutover.limits)().lock_timeout.min(most);
    let stop = |what: String| {
        let next = "The copy is of no use any more: start again once what is left is removed";
        Err(Error::new(Kind::NotResumable, what).next(next))
    };
    catalog::check_attachments(session, source.oid).await?;
    let plan = match change::rehearse_within(session, source, cutover.request, lock_timeout).await {
        Ok(plan) => plan,
        Err(e) if e.is_connection_lost() || classify(&e) != Class::Definite => return Err(e),
        Err(e) => return stop(format!("the table was changed in mid-run: {}", e.what())),
    };
    if plan.target.shape() != cutover.target.shape() {
        let name = &cutover.names.source;
        return stop(format!(
            "the change makes another table of {name} now than it did when the run began"
        ));
    }
    Ok(plan)
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
    (done, who.ok().and_then(|blockers| blockers.who))
}

/// A lock that was not granted in time.
pub(super) fn late(e: &Error, who: Option<String>) -> Obstacle {
    match who {
        Some(who) => Obstacle::new(format!("the table's lock is held by {who}")),
        None => Obstacle::new(format!("the table's lock was not granted in time ({})", e.what())),
    }
}
