//! The server takes writes.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let row = subject.session.one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
    if !row.get::<_, bool>(0) {
        return Ok(vec![]);
    }
    Ok(vec![Finding::refuse(
        "the server is a standby (in recovery) and takes no writes",
        "Connect to the primary server: name its host in -d, or list all hosts there and add \
         target_session_attrs=read-write",
    )])
}
