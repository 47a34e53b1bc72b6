//! There is room for our sessions.

use super::{Finding, Result, Subject};
use crate::error::Error;
use crate::pg::Session;

/// What a run opens at its widest, in verification, with [`WORKERS`]; the session that asks, and the one
/// that the log comes by, included.
const WANTED: i64 = 18;
/// Workers of that run, and what each one more opens: one that compares, one that syncs.
const WORKERS: usize = 2;
const OF_A_WORKER: i64 = 2;
/// Without so many not even the smallest run gets through its phases.
const NEEDED: i64 = 16;

/// One limit on sessions.
struct Limit {
    name: String,
    most: i64,
    free: i64,
    mend: &'static str,
}

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let limits = limits(subject.session).await?;
    // Of a partitioned table somebody takes new partitions in.
    let more = i64::from(subject.table.is_partitioned());
    let more = more + subject.workers.saturating_sub(WORKERS) as i64 * OF_A_WORKER;
    Ok(limits.iter().filter_map(|limit| judge(limit, more)).collect())
}

/// There must be room for the sessions of so many workers more, of a migration that has begun.
pub async fn refuse_workers(session: &Session, more: i64) -> Result<()> {
    let wanted = more.saturating_mul(OF_A_WORKER);
    let limits = limits(session).await?;
    // The session that asks ends.
    match limits.iter().find(|limit| wanted > limit.free + 1) {
        Some(limit) if more > 0 => Err(Error::usage(format!(
            "{more} workers more open up to {wanted} sessions more, and {} ({}) leaves room for {}",
            limit.name,
            limit.most,
            (limit.free + 1).max(0)
        ))
        .state("Nothing was changed")
        .next(limit.mend)),
        _ => Ok(()),
    }
}

/// Those that there are.
async fn limits(session: &Session) -> Result<Vec<Limit>> {
    let row = session.one(LIMITS, &[]).await?;
    let limit =
        |name: String, most: i64, used: i64, mend| Limit { name, most, free: most - used, mend };
    let mut limits = vec![limit(
        "max_connections less what is reserved".into(),
        row.get(0),
        row.get(1),
        "End sessions that nobody needs, or raise max_connections and restart the server",
    )];
    // A superuser is held up by the server's own limit only, and by none of it while others wait.
    if !row.get::<_, bool>(2) {
        let database = format!("the connection limit of database {:?}", row.get::<_, String>(3));
        let role = format!("the connection limit of role {:?}", row.get::<_, String>(6));
        limits.push(limit(
            database,
            row.get(4),
            row.get(5),
            "Raise it: ALTER DATABASE … CONNECTION LIMIT",
        ));
        limits.push(limit(role, row.get(7), row.get(8), "Raise it: ALTER ROLE … CONNECTION LIMIT"));
    }
    // A negative limit is none.
    limits.retain(|limit| limit.most >= 0);
    Ok(limits)
}

/// The session that asks counts as used and is one of those wanted.
fn judge(limit: &Limit, more: i64) -> Option<Finding> {
    let (free, wanted) = (limit.free + 1, WANTED + more);
    if free >= wanted {
        return None;
    }
    let what = format!(
        "{} ({}) leaves room for {} sessions of ours, and a run opens up to {wanted}",
        limit.name,
        limit.most,
        free.max(0)
    );
    let say = if free < NEEDED + more { Finding::refuse } else { Finding::warn };
    Some(say(what, limit.mend.to_owned()))
}

/// A backend whose type we may not see counts as a client's. Reserved for roles: 16 and newer.
const LIMITS: &str = "
  WITH sessions AS (SELECT a.datid, a.usesysid FROM pg_catalog.pg_stat_activity a
    WHERE a.datid IS NOT NULL AND COALESCE(a.backend_type, 'client backend') = 'client backend')
  SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int8
      - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
      - COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int8,
    (SELECT pg_catalog.count(*) FROM sessions),
    r.rolsuper,
    d.datname::pg_catalog.text, d.datconnlimit::pg_catalog.int8,
    (SELECT pg_catalog.count(*) FROM sessions s WHERE s.datid = d.oid),
    r.rolname::pg_catalog.text, r.rolconnlimit::pg_catalog.int8,
    (SELECT pg_catalog.count(*) FROM sessions s WHERE s.usesysid = r.oid)
  FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
  WHERE d.datname = pg_catalog.current_database() AND r.rolname = SESSION_USER";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn little_room_warns_and_none_refuses() {
        let of_more = |free, more| {
            let limit = Limit { name: "it".into(), most: 20, free, mend: "" };
            judge(&limit, more).map(|f| f.severity)
        };
        let severity = |free| of_more(free, 0);
        assert_eq!(severity(17), None);
        assert_eq!((of_more(17, 1), of_more(18, 1)), (Some(Severity::Warn), None));
        assert_eq!(severity(16), Some(Severity::Warn));
        assert_eq!(severity(15), Some(Severity::Warn));
        assert_eq!(severity(14), Some(Severity::Refuse));
        assert_eq!(severity(-3), Some(Severity::Refuse));
    }
}
