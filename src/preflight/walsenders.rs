//! A walsender is free.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    // Who may not see what the others do still sees that they are there.
    let sql = "SELECT pg_catalog.current_setting('max_wal_senders')::pg_catalog.int8, \
               pg_catalog.count(*) FROM pg_catalog.pg_stat_replication";
    let row = subject.session.one(sql, &[]).await?;
    let (most, used): (i64, i64) = (row.get(0), row.get(1));
    if used < most {
        return Ok(vec![]);
    }
    Ok(vec![Finding::refuse(
        format!("no walsender is free: {used} of max_wal_senders = {most} are in use"),
        format!(
            "End a replication connection that nobody needs (see pg_stat_replication), or \
             ALTER SYSTEM SET max_wal_senders = {}; then restart the server (standbys first, \
             which need as many)",
            most + 1
        ),
    )])
}
