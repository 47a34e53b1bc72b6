//! The connection leads straight to one backend. A transaction pooler gives every transaction
//! another one: pinned settings, roles and snapshots would be lost between two statements.

use super::{Finding, Result, Subject};
use crate::pg::Session;

/// Any name with a dot may be set by anybody; no pooler knows this one and carries it over.
const MARK: &str = "pgwraith.preflight";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let mut signs = lost_options(subject.session).await?;
    signs.extend(changed_backend(subject).await?);
    if signs.is_empty() {
        return Ok(vec![]);
    }
    Ok(vec![Finding::refuse(
        format!(
            "the connection does not lead straight to one server process: {}",
            signs.join("; ")
        ),
        "Connect to PostgreSQL itself and not to a transaction pooler (PgBouncer, Pgpool, RDS Proxy, \
         a service's pooled port): put the server's own host and port in -d",
    )])
}

/// Poolers drop the startup options by which the sessions' settings are pinned.
async fn lost_options(session: &Session) -> Result<Vec<String>> {
    // All four are pinned to off or 0 at the start, and row_security and jit are on by themselves.
    let sql = "SELECT s.name, s.setting FROM pg_catalog.pg_settings s
               WHERE s.name IN ('row_security', 'jit', 'statement_timeout', 'lock_timeout')
                 AND s.setting NOT IN ('off', '0') ORDER BY s.name";
    let rows = session.query(sql, &[]).await?;
    let sign = |row: &tokio_postgres::Row| {
        let (name, value): (&str, &str) = (row.get(0), row.get(1));
        format!("the startup option {name} did not arrive (it is {value})")
    };
    Ok(rows.iter().map(sign).collect())
}

/// While a second session is in a transaction, a pooler cannot give the first one the backend that
/// the second has; and where it does not, the mark left on the first one's backend tells.
async fn changed_backend(subject: &Subject<'_>) -> Result<Option<String>> {
    let session = subject.session;
    let mark = session.pid().to_string();
    let before = backend_pid(session).await?;
    session.one("SELECT pg_catalog.set_config($1, $2, false)", &[&MARK, &mark]).await?;

    let second = subject.connector.session("preflight").await?;
    second.batch("BEGIN").await?;
    let other = backend_pid(&second).await?;
    let after = backend_pid(session).await?;
    let row = session.one("SELECT pg_catalog.current_setting($1, true)", &[&MARK]).await?;
    let found: Option<String> = row.get(0);
    second.rollback().await;

    if other == before {
        return Ok(Some(format!("server process {before} serves two sessions")));
    }
    if after != before || before != session.pid() {
        return Ok(Some(format!("one session was served by processes {before} and {after}")));
    }
    let kept = found.as_deref() == Some(mark.as_str());
    Ok((!kept).then(|| "a setting was lost between two statements".to_owned()))
}

async fn backend_pid(session: &Session) -> Result<i32> {
    Ok(session.one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.get(0))
}
