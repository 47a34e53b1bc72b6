//! Where migrations stand, as the database tells it: asked from any host, without the run.

use super::store::Stored;
use super::{index, liveness, resume, store, teardown};
use crate::catalog;
use crate::error::Result;
use crate::pg::{Connector, Session, Who};

/// One migration.
#[derive(Debug, serde::Serialize)]
pub struct Status {
    pub source: String,
    /// None where the table itself is altered.
    pub shadow: Option<String>,
    pub phase: String,
    /// Of what is altered in place.
    pub step: Option<AtStep>,
    /// Who runs it; None where nobody does.
    pub run_by: Option<String>,
    /// Of the phase; None where that is not known.
    pub percent: Option<f64>,
    pub rows_copied: i64,
    pub rows_estimated: Option<i64>,
    pub rows_per_second: f64,
    /// When the phase will be over at the pace of the last minute and of the last quarter of an hour, earlier
    /// one first, by the server's clock: `03:10–04:40`. None where that is not known.
    pub eta: Option<String>,
    /// Why it goes as fast as it does; None where the run does not say.
    pub reason: Option<String>,
    pub paused: bool,
    pub postponed: bool,
    pub cutover_window: Option<String>,
    pub keys: Keys,
    pub slot: Option<Slot>,
    /// How old the oldest snapshot of ours is, in seconds: VACUUM removes nothing that is younger.
    pub snapshot_seconds: Option<i64>,
    /// None where a table is locked.
    pub disk: Option<Disk>,
    /// The copy fills the indexes: none is built afterwards.
    pub indexes_before: bool,
    /// What the builds of all indexes and VACUUM will take about; None where that is not known.
    pub index_seconds: Option<f64>,
    /// What verification will take about, at the pace of the last minute of the copy.
    pub verify_seconds: Option<f64>,
    /// Who keeps our sessions waiting.
    pub blocked_by: Vec<String>,
    /// Locks of ours on the source that keep others waiting.
    pub blocks: bool,
    pub last_event: Option<String>,
}

/// How far a change in place is.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AtStep {
    /// From 1.
    pub number: i32,
    pub of: i32,
    pub sql: String,
}

/// Changed keys.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Keys {
    pub waiting: Option<i64>,
    /// A second, lately.
    pub in_per_second: Option<f64>,
    pub out_per_second: Option<f64>,
}

/// Bytes of both tables.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Disk {
    /// With its indexes.
    pub shadow: i64,
    /// The same of the source, which the shadow will be about as large as.
    pub source: i64,
    /// Of the source's indexes.
    pub indexes: i64,
    /// How many those are.
    pub index_count: i64,
}

impl Disk {
    /// What will be read and written behind the copy: by each index, and by VACUUM.
    fn seconds(&self, rate: u64, indexes_before: bool) -> f64 {
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let table = size(self.source - self.indexes);
        let (reads, written) = match indexes_before {
            true => (1, 0),
            false => (size(self.index_count) + 1, size(self.indexes)),
        };
        index::build_seconds(table.saturating_mul(reads), written, rate).as_secs_f64()
    }
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
            status.disk = disk(&session, stored).await;
            status.indexes_before = stored.request.indexes_before;
            let rate = store::copy_rate(&session, stored.id).await?;
            status.index_seconds =
                status.disk.zip(rate).map(|(d, rate)| d.seconds(rate, status.indexes_before));
            all.push(status);
        }
    }
    Ok(all)
}

async fn read(session: &Session, migration: i64) -> Result<Option<Status>> {
    let sql = "SELECT s.source, s.shadow, s.phase, s.rows_copied, s.rows_verified, s.rows_estimated, \
               s.rows_last_minute, s.rows_last_quarter, s.key_position, s.reason, s.paused, s.postponed, \
               s.cutover_window, s.keys_waiting, s.keys_in_per_second, s.keys_out_per_second, s.slot, s.slot_bytes, \
               s.safe_wal_size, s.slot_xmin_age, COALESCE(s.wal_status = 'lost', false) AS lost, s.last_event, s.step, s.steps, s.step_sql, \
               (SELECT pg_catalog.date_part('epoch', pg_catalog.max(pg_catalog.clock_timestamp() - a.xact_start))::pg_catalog.int8 \
                 FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $2 AND a.backend_xmin IS NOT NULL) AS snapshot, \
               EXISTS (SELECT 1 FROM pg_catalog.pg_locks w WHERE NOT w.granted AND w.relation = m.source_oid \
                 AND EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) \
                   AND a.application_name LIKE $2)) AS blocks \
               FROM pgwraith.status s JOIN pgwraith.migration m USING (id) WHERE s.id = $1";
    let names = teardown::session_names(migration);
    let Some(row) = session.maybe(sql, &[&migration, &names]).await? else { return Ok(None) };
    let phase: String = row.get("phase");
    let done = Done {
        copied: row.get("rows_copied"),
        verified: row.get("rows_verified"),
        estimated: row.get("rows_estimated"),
        key_position: row.get("key_position"),
    };
    let (minute, quarter): (i64, i64) = (row.get("rows_last_minute"), row.get("rows_last_quarter"));
    let left = done.left(&phase);
    let paces = [minute as f64 / 60.0, quarter as f64 / 900.0];
    let slot: Option<String> = row.get("slot");
    let slot = slot.zip(row.get::<_, Option<i64>>("slot_bytes")).map(|(name, bytes)| Slot {
        name,
        bytes,
        safe_bytes: row.get("safe_wal_size"),
        xmin_age: row.get("slot_xmin_age"),
        lost: row.get("lost"),
    });
    let step: Option<i32> = row.get("step");
    let step = step.zip(row.get("step_sql"));
    let step = step.map(|(number, sql)| AtStep { number, of: row.get("steps"), sql });
    Ok(Some(Status {
        percent: done.percent(&phase),
        step,
        source: row.get("source"),
        shadow: row.get("shadow"),
        run_by: None,
        rows_copied: done.copied,
        rows_estimated: done.estimated,
        rows_per_second: paces[0],
        eta: match left {
            Some(left) => eta(session, left, paces).await?,
            None => None,
        },
        reason: row.get("reason"),
        paused: row.get("paused"),
        postponed: row.get("postponed"),
        cutover_window: row.get("cutover_window"),
        keys: Keys {
            waiting: row.get("keys_waiting"),
            in_per_second: row.get("keys_in_per_second"),
            out_per_second: row.get("keys_out_per_second"),
        },
        slot,
        snapshot_seconds: row.get("snapshot"),
        disk: None,
        indexes_before: false,
        index_seconds: None,
        verify_seconds: done.verification(&phase, paces[0]),
        blocked_by: Vec::new(),
        last_event: row.get("last_event"),
        blocks: row.get("blocks"),
        phase,
    }))
}

/// To know a size takes a lock: whoever asks how things stand must not wait in a queue, nor be in one.
async fn disk(session: &Session, stored: &Stored) -> Option<Disk> {
    let sql = "SELECT (SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(s.oid))::pg_catalog.int8 FROM (\
                 SELECT $1::pg_catalog.oid AS oid \
                 UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = $1) s), \
               pg_catalog.sum(pg_catalog.pg_total_relation_size(t.oid::pg_catalog.regclass))::pg_catalog.int8, \
               pg_catalog.sum(pg_catalog.pg_indexes_size(t.oid::pg_catalog.regclass))::pg_catalog.int8, \
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = $2) \
               FROM pg_catalog.unnest($3::pg_catalog.oid[]) t (oid)";
    let shadow = stored.shadow_oid?;
    session.batch("BEGIN READ ONLY; SET LOCAL lock_timeout = '50ms'").await.ok()?;
    let sizes = async {
        let source = catalog::tree(session, stored.source_oid).await?;
        session.one(sql, &[&shadow, &stored.source_oid, &source]).await
    };
    let sizes = sizes.await;
    session.rollback().await;
    let row = sizes.ok()?;
    // Null where it is gone.
    let size = |column| row.get::<_, Option<i64>>(column);
    Some(Disk { shadow: size(0)?, source: size(1)?, indexes: size(2)?, index_count: size(3)? })
}

/// How far a migration is, in rows and by the key.
struct Done {
    copied: i64,
    verified: i64,
    estimated: Option<i64>,
    /// A share of the key space, by how many rows there are in it.
    key_position: Option<f32>,
}

impl Done {
    /// What is not at its end is never told to be; and never less than before, since nothing here ever is:
    /// the estimate is the one that the migration began with.
    fn percent(&self, phase: &str) -> Option<f64> {
        let share = match phase {
            "copy" => match self.key_position {
                // No estimate is in it.
                Some(position) => f64::from(position),
                None => self.copied as f64 / self.estimated?.max(1) as f64,
            },
            // Of filling; what else is done is told by steps.
            "in place" => f64::from(self.key_position?),
            "verify" => self.verified as f64 / self.all()?.max(1) as f64,
            _ => return None,
        };
        Some((share * 100.0).clamp(0.0, 99.0))
    }

    /// Rows that are left of the phase.
    fn left(&self, phase: &str) -> Option<f64> {
        let share = self.percent(phase)? / 100.0;
        match phase {
            "copy" | "in place" if self.key_position.is_some_and(|p| p > 0.0) => {
                Some(self.copied as f64 / share.max(0.001) * (1.0 - share))
            }
            "copy" => Some((self.estimated? - self.copied).max(0) as f64),
            _ => Some((self.all()? - self.verified).max(0) as f64),
        }
    }

    /// What it will take, as long as rows are copied: both tables are read at about the pace at which one is read and
    /// the other written (measured: 3.9 s and 4.0 s).
    fn verification(&self, phase: &str, pace: f64) -> Option<f64> {
        (phase == "copy" && pace > 0.0).then(|| self.all().map(|rows| rows as f64 / pace)).flatten()
    }

    /// What was copied is known better than what the server once estimated.
    fn all(&self) -> Option<i64> {
        Some(self.estimated.unwrap_or(0).max(self.copied)).filter(|rows| *rows > 0)
    }
}

/// When so many rows will be done, at one pace or the other, by the server's clock.
async fn eta(session: &Session, left: f64, paces: [f64; 2]) -> Result<Option<String>> {
    // Within the first quarter of an hour its rows are of a shorter time.
    let mut seconds: Vec<f64> =
        paces.into_iter().filter(|pace| *pace > 0.0).map(|pace| left / pace).collect();
    seconds.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (seconds.first(), seconds.last()) else { return Ok(None) };
    // A month ahead nothing is known.
    if *last > 30.0 * 86_400.0 {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp() + $1::pg_catalog.float8 * interval '1 second', f.format), \
               pg_catalog.to_char(pg_catalog.clock_timestamp() + $2::pg_catalog.float8 * interval '1 second', f.format) \
               FROM (SELECT CASE WHEN $2::pg_catalog.float8 < 43200 THEN 'HH24:MI' ELSE 'YYYY-MM-DD HH24:MI' END) f (format)";
    let row = session.one(sql, &[first, last]).await?;
    let (first, last): (String, String) = (row.get(0), row.get(1));
    Ok(Some(if first == last { first } else { format!("{first}–{last}") }))
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

    fn done(copied: i64, verified: i64, estimated: Option<i64>, key: Option<f32>) -> Done {
        Done { copied, verified, estimated, key_position: key }
    }

    #[test]
    fn percent_is_never_more_than_is_known() {
        assert_eq!(done(50, 0, Some(200), None).percent("copy"), Some(25.0));
        assert_eq!(
            done(500, 0, Some(200), None).percent("copy"),
            Some(99.0),
            "the estimate is too low"
        );
        assert_eq!(done(50, 0, None, None).percent("copy"), None);
        assert_eq!(
            done(50, 0, Some(10), Some(0.5)).percent("copy"),
            Some(50.0),
            "the key knows better"
        );
        assert_eq!(done(400, 100, Some(200), None).percent("verify"), Some(25.0));
        assert_eq!(done(400, 100, None, Some(1.0)).percent("verify"), Some(25.0));
        assert_eq!(done(400, 100, Some(200), None).percent("index"), None);
        assert_eq!(done(0, 0, None, None).percent("verify"), None);
    }

    #[test]
    fn what_comes_behind_the_copy_is_told_only_where_it_is_known() {
        assert_eq!(done(50, 0, Some(200), None).verification("copy", 10.0), Some(20.0));
        assert_eq!(done(50, 0, Some(200), None).verification("copy", 0.0), None);
        assert_eq!(done(50, 0, Some(200), None).verification("index", 10.0), None);
        let disk = Disk { shadow: 0, source: 1_000, indexes: 200, index_count: 3 };
        assert_eq!(disk.seconds(100, false), 10.0);
        assert_eq!(disk.seconds(100, true), 2.0);
    }

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        assert_eq!(done(50, 0, Some(200), None).left("copy"), Some(150.0));
        assert_eq!(done(500, 0, Some(200), None).left("copy"), Some(0.0));
        assert_eq!(done(50, 0, Some(10), Some(0.25)).left("copy"), Some(150.0));
        assert_eq!(done(400, 100, None, None).left("verify"), Some(300.0));
        assert_eq!(done(400, 100, None, None).left("cutover"), None);
    }
}
