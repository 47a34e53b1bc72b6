//! Transactions that have been writing for long, anywhere on the server: the slot cannot be made
//! before each of them has ended.

use super::{Finding, Result, Subject};
use crate::pg::quote_literal;

/// From here on a transaction is worth naming.
const LONG_SECONDS: f64 = 60.0;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let mut findings = running(subject).await?;
    findings.extend(prepared(subject).await?);
    Ok(findings)
}

async fn running(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    // Whose start we may not see counts as long: what cannot be measured is over the limit.
    let sql = "
      SELECT a.pid, COALESCE(a.usename::pg_catalog.text, '?'), COALESCE(a.datname::pg_catalog.text, '?'),
        a.xact_start::pg_catalog.text, a.query_start::pg_catalog.text, a.query, a.state IS NOT NULL
      FROM pg_catalog.pg_stat_activity a
      WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
        AND (a.xact_start IS NULL
          OR pg_catalog.clock_timestamp() - a.xact_start > pg_catalog.make_interval(secs => $1))
      ORDER BY a.xact_start NULLS LAST, a.pid";
    let rows = subject.session.query(sql, &[&LONG_SECONDS]).await?;
    Ok(rows.iter().map(of_session).collect())
}

fn of_session(row: &tokio_postgres::Row) -> Finding {
    let pid: i32 = row.get(0);
    let (user, database): (&str, &str) = (row.get(1), row.get(2));
    let text = |n| row.get::<_, Option<String>>(n);
    let doing = match (text(3), text(4), text(5)) {
        (Some(began), Some(asked), Some(query)) => {
            format!("began at {began}; its query, started at {asked}: {}", first_line(&query))
        }
        (Some(began), ..) => format!("began at {began}"),
        _ => "began at a time, and does a thing, that this role is not allowed to see".to_owned(),
    };
    Finding::warn(
        format!("a writing transaction (pid {pid}, user {user:?}, database {database:?}) {doing}"),
        format!(
            "Expect the run to wait until it ends before it starts; or SELECT pg_terminate_backend({pid})"
        ),
    )
}

async fn prepared(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT p.gid, p.database::pg_catalog.text, p.owner::pg_catalog.text, p.prepared::pg_catalog.text
               FROM pg_catalog.pg_prepared_xacts p
               WHERE pg_catalog.clock_timestamp() - p.prepared > pg_catalog.make_interval(secs => $1)
               ORDER BY p.prepared, p.gid";
    let rows = subject.session.query(sql, &[&LONG_SECONDS]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (database, owner, since): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let gid = quote_literal(row.get(0));
        let gid = gid.trim_start();
        Finding::warn(
            format!(
                "the transaction {gid}, prepared by {owner:?} in database {database:?} at {since}, has not ended"
            ),
            format!(
                "COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}, as {owner:?} in database {database:?}: until then the run waits"
            ),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

/// A message has one line for each finding.
fn first_line(query: &str) -> String {
    const LONGEST: usize = 120;
    let line = query.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::first_line;

    #[test]
    fn a_query_takes_one_line() {
        assert_eq!(first_line("UPDATE t\n  SET a = 1"), "UPDATE t SET a = 1");
        assert_eq!(first_line(&"ü".repeat(200)), format!("{}…", "ü".repeat(120)));
    }
}
