//! Where migrations stand, as the database tells it: asked from any host, without the run.

use super::{liveness, resume, store, teardown};
use crate::error::Result;
use crate::pg::{Connector, Session, Who};

/// One migration.
#[derive(Debug, serde::Serialize)]
pub struct Status {
    pub source: String,
    pub shadow: String,
    pub phase: String,
    /// Who runs it; None where nobody does.
    pub run_by: Option<String>,
    /// Of the phase, by rows; None where that says nothing.
    pub percent: Option<f64>,
    pub rows_copied: i64,
    pub rows_estimated: Option<i64>,
    pub rows_per_second: f64,
    /// Why it goes as fast as it does; None where the run does not say.
    pub reason: Option<String>,
    pub paused: bool,
    pub postponed: bool,
    pub keys_waiting: Option<i64>,
    pub slot: Option<Slot>,
    /// Who keeps our sessions waiting.
    pub blocked_by: Vec<String>,
    /// Locks of ours on the source that keep others waiting.
    pub blocks: bool,
    pub last_event: Option<String>,
}

/// What its slot holds.
#[derive(Debug, serde::Serialize)]
pub struct Slot {
    pub name: String,
    pub bytes: i64,
    /// Until the server gives it up; None is without limit.
    pub safe_bytes: Option<i64>,
    pub xmin_age: Option<i32>,
    pub lost: bool,
}

/// All unfinished migrations of the database, or that of one table.
pub async fn status(connector: &Connector, table: Option<&str>) -> Result<Vec<Status>> {
    let session = connector.session("status").await?;
    let asked = match table {
        Some(table) => vec![resume::find(&session, table).await?],
        None => store::all_unfinished(&session).await?,
    };
    if !asked.is_empty() {
        store::ensure(&session).await?;
    }
    let mut all = Vec::new();
    for stored in &asked {
        let run_by = liveness::run_by(&session, stored).await?;
        if let Some(mut status) = read(&session, stored.id).await? {
            status.run_by = run_by;
            status.blocked_by = blockers(&session, stored.id).await?;
            all.push(status);
        }
    }
    Ok(all)
}

async fn read(session: &Session, migration: i64) -> Result<Option<Status>> {
    let sql = "SELECT s.source, s.shadow, s.phase, s.rows_copied, s.rows_verified, s.rows_estimated, \
               s.rows_last_minute, s.reason, s.paused, s.postponed, s.keys_waiting, s.slot, s.slot_bytes, \
               s.safe_wal_size, s.slot_xmin_age, COALESCE(s.wal_status = 'lost', false), s.last_event, \
               EXISTS (SELECT 1 FROM pg_catalog.pg_locks w WHERE NOT w.granted AND w.relation = m.source_oid \
                 AND EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) \
                   AND a.application_name LIKE $2)) \
               FROM pgwraith.status s JOIN pgwraith.migration m USING (id) WHERE s.id = $1";
    let names = teardown::session_names(migration);
    let Some(row) = session.maybe(sql, &[&migration, &names]).await? else { return Ok(None) };
    let phase: String = row.get(2);
    let (rows_copied, rows_verified): (i64, i64) = (row.get(3), row.get(4));
    let rows_estimated: Option<i64> = row.get(5);
    let slot: Option<String> = row.get(11);
    let slot = slot.zip(row.get::<_, Option<i64>>(12)).map(|(name, bytes)| Slot {
        name,
        bytes,
        safe_bytes: row.get(13),
        xmin_age: row.get(14),
        lost: row.get(15),
    });
    Ok(Some(Status {
        percent: percent(&phase, rows_copied, rows_verified, rows_estimated),
        source: row.get(0),
        shadow: row.get(1),
        phase,
        run_by: None,
        rows_copied,
        rows_estimated,
        rows_per_second: row.get::<_, i64>(6) as f64 / 60.0,
        reason: row.get(7),
        paused: row.get(8),
        postponed: row.get(9),
        keys_waiting: row.get(10),
        slot,
        blocked_by: Vec::new(),
        last_event: row.get(16),
        blocks: row.get(17),
    }))
}

/// The estimate is one: what is not at its end is never told to be.
fn percent(phase: &str, copied: i64, verified: i64, estimated: Option<i64>) -> Option<f64> {
    let done = match phase {
        "copy" => copied,
        "verify" => verified,
        _ => return None,
    };
    // What was copied is known better than what the server once estimated.
    let all = estimated?.max(if phase == "verify" { copied } else { 0 });
    Some((done as f64 * 100.0 / all.max(1) as f64).min(99.0))
}

/// Who keeps our sessions waiting, for a message.
async fn blockers(session: &Session, migration: i64) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE NOT a.application_name LIKE $1 AND a.pid IN (\
         SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) FROM pg_catalog.pg_stat_activity w \
         WHERE w.application_name LIKE $1 AND w.wait_event_type = 'Lock') ORDER BY a.pid",
        Who::COLUMNS
    );
    let rows = session.query(&sql, &[&teardown::session_names(migration)]).await?;
    Ok(rows.iter().map(|row| Who::of(row).to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_never_more_than_is_known() {
        assert_eq!(percent("copy", 50, 0, Some(200)), Some(25.0));
        assert_eq!(percent("copy", 500, 0, Some(200)), Some(99.0), "the estimate is too low");
        assert_eq!(percent("copy", 50, 0, None), None);
        assert_eq!(percent("verify", 400, 100, Some(200)), Some(25.0));
        assert_eq!(percent("index", 400, 100, Some(200)), None);
    }
}
