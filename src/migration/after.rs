//! After the swap: moves what could not be moved under the lock, and proves the foreign keys that were
//! bound without a look at any row.
//!
//! VALIDATE blocks neither reads nor writes (SHARE UPDATE EXCLUSIVE on the referring table, ROW SHARE
//! on the other). The slot is gone by then: a large table takes long, and WAL must not wait for it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::store::{self, ToDo, What};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Connector, GivesWay, Ran, Session};
use crate::shadow::{Names, Step};
use crate::telemetry::{Meter, Sample};

/// Nobody but DDL queues behind a VALIDATE that waits, and autovacuum gives way only to who waits for longer
/// than deadlock_timeout.
const VALIDATE_TIMEOUT: &str = "5s";
/// A transaction that called nextval holds its sequence to its end: whoever calls it behind us waits no
/// longer than this.
const LOCK_TIMEOUT: &str = "10ms";
/// Pauses between two tries begin with this and double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs what is left. Returns how many foreign keys that proved.
pub(super) async fn run(
    connector: &Connector,
    control: &Session,
    migration: i64,
    patience: Duration,
    meter: &Meter,
) -> Result<usize> {
    let mut steps = store::left_to_do(control, migration).await?;
    let mut work =
        Work { connector, migration, patience, meter, open: None, failed: None, proven: 0 };
    if !steps.is_empty() {
        meter.tell(Sample::Phase("validate"));
    }
    if steps.iter().any(|to_do| to_do.what == What::Names) {
        steps.retain(|to_do| to_do.what == What::Names);
        work.steps(&steps).await;
        // Each partition's key is proven by the name that it has now.
        steps = store::left_to_do(control, migration).await?;
        steps.retain(|to_do| to_do.what != What::Names);
    }
    work.steps(&steps).await;
    match work.failed {
        Some(e) => Err(e),
        None => store::all_done(control, migration).await.map(|()| work.proven),
    }
}

struct Work<'a> {
    connector: &'a Connector,
    migration: i64,
    patience: Duration,
    meter: &'a Meter,
    open: Option<Session>,
    /// What failed first.
    failed: Option<Error>,
    proven: usize,
}

impl Work<'_> {
    /// Each in turn, and again until it gets its locks. One that fails does not keep the others from being run.
    async fn steps(&mut self, steps: &[ToDo]) {
        let mut united = true;
        for to_do in steps {
            // The comment of a key that is not there.
            if !united && to_do.step.sql.starts_with("COMMENT ON CONSTRAINT ") {
                continue;
            }
            let done = self.step(to_do).await;
            if to_do.what == What::Unites {
                united = done.is_ok();
            }
            match done {
                Ok(()) => self.proven += usize::from(to_do.what == What::Proves),
                Err(e) if self.failed.is_some() => {
                    self.meter.note(format!("{}: {e}", to_do.step.sql));
                }
                Err(e) => self.failed = Some(e),
            }
        }
    }

    async fn step(&mut self, ToDo { step, what }: &ToDo) -> Result<()> {
        let session = match self.open.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => connect(self.connector, &format!("{}/after", self.migration)).await?,
        };
        let session = self.open.insert(session);
        // Nothing makes a key that is proven unproven again: what is found here holds.
        if *what == What::Unites {
            let unproven = store::still_to_prove(session, &step.sql).await?;
            if !unproven.is_empty() {
                return Err(not_yet(&step.sql, &unproven));
            }
        }
        let limit = if *what == What::Proves { VALIDATE_TIMEOUT } else { LOCK_TIMEOUT };
        session.set("lock_timeout", limit).await?;
        let gives_way = match *what == What::Proves {
            true => {
                Some(connect(self.connector, &format!("{}/after watch", self.migration)).await?)
            }
            false => None,
        };
        let waits = Waits { patience: self.patience, meter: self.meter, watcher: gives_way };
        waits.by_its_role(session, step).await?;
        failpoint!("step done");
        store::event(session, self.migration, "done", &step.sql).await?;
        failpoint!("step recorded");
        Ok(())
    }
}

/// A key of a partitioned table takes over what is proven of its partitions, and would read the others under a lock.
fn not_yet(sql: &str, unproven: &[String]) -> Error {
    Error::failed(format!(
        "{sql} is not run before the foreign keys of all partitions are proven: it would read all rows of the others \
         and keep writers out meanwhile. Before it: {}",
        unproven.join("; ")
    ))
}

async fn connect(connector: &Connector, role: &str) -> Result<Session> {
    connector.session(role).await
}

/// How a statement gets its locks, and lets others have theirs.
struct Waits<'a> {
    patience: Duration,
    meter: &'a Meter,
    /// Of what reads a whole table.
    watcher: Option<Session>,
}

impl Waits<'_> {
    /// An owner who lacks a right to name what is his, in a schema he may not use, has it done by the tool.
    async fn by_its_role(&self, session: &Session, step: &Step) -> Result<()> {
        if let Some(role) = &step.role {
            session.set_role(role).await?;
        }
        let done = self.one(session, &step.sql).await;
        session.batch("RESET ROLE").await?;
        match done {
            Err(e) if step.role.is_some() && e.sqlstate() == Some("42501") => {
                self.one(session, &step.sql).await
            }
            done => done,
        }
    }

    async fn one(&self, session: &Session, sql: &str) -> Result<()> {
        let (mut started, mut told, mut pause) = (Instant::now(), false, PAUSE);
        let mut ways = GivesWay::new(sql);
        loop {
            let work = session.batch(sql);
            let ran = match &self.watcher {
                Some(watcher) => ways.run(watcher, session.pid(), work).await,
                None => work.await.map(Ran::Done),
            };
            match ran {
                Ok(Ran::Done(())) => return Ok(()),
                Ok(Ran::GaveWay(why)) => {
                    self.meter.note(why);
                    // It had its locks.
                    (started, told, pause) = (Instant::now(), false, PAUSE);
                    continue;
                }
                Err(e) if !matches!(classify(&e), Class::Late | Class::Transient) => return Err(e),
                Err(e) if started.elapsed() > self.patience => return Err(e),
                Err(e) if !told => {
                    told = true;
                    self.meter.note(format!("{sql} waits for its locks: {}", e.what()));
                }
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What there is to know about statements that are left.
pub(super) fn unproven(left: &[String]) -> Option<&'static str> {
    left.iter().any(|sql| sql.contains(" VALIDATE CONSTRAINT ")).then_some(
        "a foreign key that is not validated holds for every row written since, and is not proven for those \
         before",
    )
}

/// What is to be said where something is left to do; also where the operator stops the run.
pub(super) fn unfinished(e: Error, names: &Names, left: &[String], table: &str) -> Error {
    let violated = classify(&e) == Class::RowsDoNotFit;
    let kind = if violated { Kind::DataDiffers } else { e.kind() };
    let mend = match violated {
        true => "Mend the rows that violate the foreign key first, VALIDATE fails until then. ",
        false => "",
    };
    let why = unproven(left).map(|why| format!(". What is left: {why}")).unwrap_or_default();
    let state = format!(
        "The names were swapped before that: {} has its new shape, the old table is {}{why}",
        names.source, names.retired
    );
    let next = match left {
        [] => "Nothing is left to run".to_owned(),
        _ => {
            let all = left.join("; ");
            format!("{mend}Run what is left, or let `pgwraith resume {table}` do it: {all}")
        }
    };
    e.with_kind(kind).context("after the swap").and_then_state(state, next)
}
