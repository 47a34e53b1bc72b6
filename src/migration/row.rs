//! The migration's row in the state, for whoever wants to change something about it: a transaction that somebody left
//! open may hold it.

use super::store::Stored;
use crate::error::{Error, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Session, Who};

/// It is not waited for longer, and without a word.
const PATIENCE: &str = "3s";

/// Begins a transaction that holds the row. Those of a run that write at the same time are not in the way.
pub(super) async fn take(session: &Session, stored: &Stored) -> Result<()> {
    match try_to(session, stored).await {
        Err(e) if classify(&e) == Class::Late => {
            let outsiders = outsiders(session).await;
            Err(held(stored, &outsiders, e))
        }
        taken => taken,
    }
}

/// Refuses where somebody else holds the row. What the migration's own sessions hold ends with them: a run that hangs
/// must not keep it from being undone.
pub(super) async fn refuse_outsiders(session: &Session, stored: &Stored) -> Result<()> {
    match try_to(session, stored).await {
        Ok(()) => {
            session.rollback().await;
            Ok(())
        }
        Err(e) if classify(&e) == Class::Late => {
            let outsiders = outsiders(session).await;
            if outsiders.is_empty() { Ok(()) } else { Err(held(stored, &outsiders, e)) }
        }
        Err(e) => Err(e),
    }
}

async fn try_to(session: &Session, stored: &Stored) -> Result<()> {
    session.batch(&format!("BEGIN; SET LOCAL lock_timeout = '{PATIENCE}'")).await?;
    let sql = "SELECT 1 FROM pgwraith.migration m WHERE m.id = $1 FOR NO KEY UPDATE";
    if let Err(e) = session.query(sql, &[&stored.id]).await {
        session.rollback().await;
        return Err(e);
    }
    Ok(())
}

/// Who may hold it and is no session of ours, as far as can be seen. Rows that are locked are in no catalog; whoever
/// locked one has a lock on the table until he ends.
async fn outsiders(session: &Session) -> Vec<Who> {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.wait_event_type IS DISTINCT FROM 'Lock' \
         AND NOT pg_catalog.starts_with(a.application_name, 'pgwraith/') AND a.pid IN (\
           SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted \
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
           AND l.relation = 'pgwraith.migration'::pg_catalog.regclass \
           AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')) ORDER BY a.xact_start",
        Who::COLUMNS
    );
    let rows = session.query(&sql, &[]).await.unwrap_or_default();
    rows.iter().map(Who::of).collect()
}

fn held(stored: &Stored, by: &[Who], e: Error) -> Error {
    let next = match by.first() {
        Some(who) => format!(
            "End that transaction (COMMIT or ROLLBACK there, or SELECT pg_terminate_backend({})), and say it again",
            who.pid
        ),
        None => "Say it again".to_owned(),
    };
    let by = Who::list(by).unwrap_or_else(|| "the run itself".to_owned());
    e.context(format!(
        "the state of the migration of {} (its row in pgwraith.migration) was not to be had within {PATIENCE}; it is held by {by}",
        stored.names.source
    ))
    .state("Nothing was changed")
    .next(next)
}
