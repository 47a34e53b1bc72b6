//! After the swap: moves what could not be moved under the lock, and proves the foreign keys that were
//! bound without a look at any row.
//!
//! VALIDATE blocks neither reads nor writes (SHARE UPDATE EXCLUSIVE on the referring table, ROW SHARE
//! on the other). The slot is gone by then: a large table takes long, and WAL must not wait for it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::store::{self, ToDo};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Connector, Session};
use crate::shadow::{Names, Step};
use crate::telemetry::Meter;

/// Nobody but DDL queues behind a VALIDATE that waits, and autovacuum gives way only to who waits for longer
/// than deadlock_timeout.
const VALIDATE_TIMEOUT: &str = "5s";
/// A transaction that called nextval holds its sequence to its end: whoever calls it behind us waits no
/// longer than this.
const LOCK_TIMEOUT: &str = "10ms";
/// Pauses between two tries begin with this and double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs the steps in order, each again until it gets its locks. One that fails does not keep the others
/// from being run.
pub(super) async fn run(
    connector: &Connector,
    migration: i64,
    steps: &[ToDo],
    patience: Duration,
    meter: &Meter,
) -> Result<()> {
    let session_role = format!("{migration}/after");
    let mut open: Option<Session> = None;
    let mut failed = None::<Error>;
    for ToDo { step, validates } in steps {
        // A key of a partitioned table takes over what is proven of its partitions, and would read the others
        // under a lock.
        if failed.is_some() && step.sql.contains(" ADD CONSTRAINT ") {
            continue;
        }
        let done = async {
            let session = match open.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => connect(connector, &session_role).await?,
            };
            let session = open.insert(session);
            let limit = if *validates { VALIDATE_TIMEOUT } else { LOCK_TIMEOUT };
            session.set("lock_timeout", limit).await?;
            by_its_role(session, step, patience, meter).await?;
            failpoint!("step done");
            store::event(session, migration, "done", &step.sql).await?;
            failpoint!("step recorded");
            Ok(())
        };
        if let Err(e) = done.await {
            if failed.is_some() {
                meter.note(format!("{}: {e}", step.sql));
            }
            failed.get_or_insert(e);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn connect(connector: &Connector, role: &str) -> Result<Session> {
    connector.session(role).await
}

/// An owner who lacks a right to name what is his, in a schema he may not use, has it done by the tool.
async fn by_its_role(
    session: &Session,
    step: &Step,
    patience: Duration,
    meter: &Meter,
) -> Result<()> {
    if let Some(role) = &step.role {
        session.set_role(role).await?;
    }
    let done = one(session, &step.sql, patience, meter).await;
    session.batch("RESET ROLE").await?;
    match done {
        Err(e) if step.role.is_some() && e.sqlstate() == Some("42501") => {
            one(session, &step.sql, patience, meter).await
        }
        done => done,
    }
}

async fn one(session: &Session, sql: &str, patience: Duration, meter: &Meter) -> Result<()> {
    let started = Instant::now();
    let (mut told, mut pause) = (false, PAUSE);
    loop {
        match session.batch(sql).await {
            Ok(()) => return Ok(()),
            Err(e) if !matches!(classify(&e), Class::Late | Class::Transient) => return Err(e),
            Err(e) if started.elapsed() > patience => return Err(e),
            Err(e) if !told => {
                told = true;
                meter.note(format!("{sql} waits for its locks: {}", e.what()));
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
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
