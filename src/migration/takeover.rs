//! Who runs a migration: whether somebody does, and how another takes it over (**Invariant 9**).

use super::store::{self, Stored};
use super::{liveness, row, teardown};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::write::superseded;
use crate::pg::{Lossy, Session, shell_word};

/// Takes the migration over from a run that has ended; from one that is alive only where `take_over`
/// says so. Returns the epoch to write in.
pub(super) async fn claim(session: &Session, stored: &Stored, take_over: bool) -> Result<i64> {
    if !take_over && let Some(by) = liveness::run_by(session, stored).await? {
        return Err(is_alive(stored, &by));
    }
    // Before anything is ended: the epoch would wait for him without a word.
    row::refuse_outsiders(session, stored).await?;
    cut_off(session, stored.id).await
}

/// Ends every session of the migration and raises its epoch. Whoever of the old run comes back
/// afterwards finds another epoch and writes nothing.
pub(super) async fn cut_off(session: &Session, migration: i64) -> Result<i64> {
    // Before: a frozen tool may have a transaction open that the epoch would wait for. After: it may
    // have come back in between and begun another.
    teardown::end_sessions(session, migration).await?;
    let epoch = store::raise_epoch(session, migration, None).await?;
    failpoint!("epoch raised");
    teardown::end_sessions(session, migration).await?;
    epoch.ok_or_else(superseded)
}

/// Goes on after connections were lost: what was open on them may still be at work in the server.
/// `NotResumable` where somebody else took over meanwhile.
pub(super) async fn take_back(session: &Session, migration: i64, mine: i64) -> Result<i64> {
    if !store::hold_epoch(session, migration, mine).await? {
        return Err(superseded());
    }
    session.rollback().await;
    teardown::end_sessions(session, migration).await?;
    let raised = store::raise_epoch(session, migration, Some(mine)).await?;
    raised.ok_or_else(superseded)
}

/// The sessions of a migration, as they are to be told.
pub(super) async fn sessions(session: &Session, migration: i64) -> Result<Vec<String>> {
    let sql = "SELECT a.pid, COALESCE(a.usename::pg_catalog.text, '?'), \
               COALESCE(pg_catalog.host(a.client_addr), 'a local socket'), a.application_name, \
               pg_catalog.date_trunc('second', a.backend_start)::pg_catalog.text \
               FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $1 \
               AND a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database() \
               ORDER BY a.backend_start, a.pid";
    let rows = session.query(sql, &[&teardown::session_names(migration)]).await?;
    let told = |row: &tokio_postgres::Row| {
        let (pid, user, from): (i32, Lossy, &str) = (row.get(0), row.get(1), row.get(2));
        let (name, since): (Lossy, &str) = (row.get(3), row.get(4));
        format!("pid {pid} ({name}, {user} from {from} since {since})")
    };
    Ok(rows.iter().map(told).collect())
}

fn is_alive(stored: &Stored, by: &str) -> Error {
    let source = &stored.names.source;
    let word = shell_word(&source.to_string());
    Error::new(Kind::Refused, format!("the migration of {source} is being run by {by}"))
    .state("Nothing was touched")
    .next(format!(
        "Let it go on; or `pgwraith resume {word} --take-over` cuts it off and goes on here, also where that \
         process is dead or frozen and the server has not noticed"
    ))
}
