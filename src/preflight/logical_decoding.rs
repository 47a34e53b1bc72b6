//! The server writes a log that can be decoded into rows.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT pg_catalog.current_setting('wal_level'), \
               pg_catalog.current_setting('effective_wal_level', true)";
    let row = subject.session.one(sql, &[]).await?;
    let effective: Option<String> = row.get(1);
    Ok(judge(row.get(0), effective.as_deref()).into_iter().collect())
}

/// `effective` exists on 19 and newer, where `replica` becomes `logical` by itself as long as there
/// is a logical slot.
fn judge(configured: &str, effective: Option<&str>) -> Option<Finding> {
    if effective.unwrap_or(configured) == "logical" {
        return None;
    }
    if effective.is_some() && configured == "replica" {
        return Some(Finding::note(
            "logical decoding is off (wal_level = replica) and the first logical slot turns it on",
            "Expect the whole server to write somewhat more WAL while the slot exists",
        ));
    }
    Some(Finding::refuse(
        format!("logical decoding is not available: wal_level is {configured}"),
        "ALTER SYSTEM SET wal_level = logical; then restart the server (managed services: set \
         rds.logical_replication = 1, cloudsql.logical_decoding = on, or wal_level = logical \
         among the server's parameters)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn on_19_replica_is_enough_and_minimal_never() {
        let severity = |configured, effective| judge(configured, effective).map(|f| f.severity);
        assert_eq!(severity("logical", None), None);
        assert_eq!(severity("replica", Some("logical")), None);
        assert_eq!(severity("replica", Some("replica")), Some(Severity::Note));
        assert_eq!(severity("replica", None), Some(Severity::Refuse));
        assert_eq!(severity("minimal", Some("minimal")), Some(Severity::Refuse));
    }
}
