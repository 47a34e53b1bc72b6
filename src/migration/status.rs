//! Where migrations stand, as the database tells it: asked from any host, without the run.

use serde_json::Value;

use super::slot_limits::SlotLimits;
use super::store::Stored;
use super::{index, liveness, resume, store, teardown, watchdog};
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
    /// Where its last run is or was.
    pub host: Option<String>,
    pub process: Option<i64>,
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
    /// What the swap, or a short step in place, waits for.
    pub lock_waits: Option<String>,
    /// Others wait for a lock of ours.
    pub blocks: bool,
    /// What throttles it, as the run saw it last.
    pub signals: Vec<Signal>,
    /// Whether that was within the last ten seconds.
    pub signals_are_fresh: bool,
    /// For how long the run has said nothing, in seconds, though it is there; None where it has lately, or need not.
    pub silent_seconds: Option<i64>,
    pub dry_run: bool,
    pub last_event: Option<String>,
    /// Whether its last run ended for good.
    pub given_up: bool,
}

/// What may hold the copy back.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Signal {
    pub signal: String,
    /// Of its limit; None where it cannot be measured.
    pub share: Option<f64>,
    pub text: String,
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
    /// So much it may, or the run gives it up.
    pub limit_bytes: u64,
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
        store::to_read(&session).await?;
    }
    let mut all = Vec::new();
    for stored in &asked {
        let run_by = liveness::run_by(&session, stored).await?;
        if let Some(mut status) = read(&session, stored.id).await? {
            status.silent_seconds = status.silent_seconds.filter(|_| run_by.is_some());
            status.run_by = run_by;
            (status.host, status.process) = stored.run_by.clone().unzip();
            status.blocked_by = blockers(&session, stored.id).await?;
            status.disk = disk(&session, stored).await;
            if let Some(slot) = &mut status.slot {
                let asked = stored.options.get("max_slot_wal").and_then(Value::as_u64);
                slot.limit_bytes = SlotLimits::read(&session, asked).await?.of_guard();
            }
            status.dry_run = stored.is_dry_run();
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
    let sql = "SELECT s.source, s.shadow, s.phase, s.percent, s.rows_copied, s.rows_estimated, s.rows_per_second, s.verify_seconds, \
               pg_catalog.to_char(s.eta_first, f.format) AS eta_first, pg_catalog.to_char(s.eta_last, f.format) AS eta_last, \
               s.lock_waits, s.signals, \
               COALESCE(s.progress_at > pg_catalog.clock_timestamp() - interval '10 seconds', false) AS fresh, s.reason, s.paused, s.postponed, \
               s.cutover_window, s.keys_waiting, s.keys_in_per_second, s.keys_out_per_second, s.slot, s.slot_bytes, \
               s.safe_wal_size, s.slot_xmin_age, COALESCE(s.wal_status = 'lost', false) AS lost, s.last_event, s.step, s.steps, s.step_sql, \
               s.silent_seconds, \
               (SELECT pg_catalog.date_part('epoch', pg_catalog.max(pg_catalog.clock_timestamp() - a.xact_start))::pg_catalog.int8 \
                 FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $2 AND a.backend_xmin IS NOT NULL) AS snapshot \
               FROM pgwraith.status s CROSS JOIN LATERAL (SELECT \
                 CASE WHEN s.eta_last < pg_catalog.clock_timestamp() + interval '12 hours' THEN 'HH24:MI' ELSE 'YYYY-MM-DD HH24:MI' END) f (format) \
               WHERE s.id = $1";
    let names = teardown::session_names(migration);
    let Some(row) = session.maybe(sql, &[&migration, &names]).await? else { return Ok(None) };
    let signals: Option<Value> = row.get("signals");
    let slot: Option<String> = row.get("slot");
    let slot = slot.zip(row.get::<_, Option<i64>>("slot_bytes")).map(|(name, bytes)| Slot {
        name,
        bytes,
        limit_bytes: 0,
        safe_bytes: row.get("safe_wal_size"),
        xmin_age: row.get("slot_xmin_age"),
        lost: row.get("lost"),
    });
    let last_event: Option<String> = row.get("last_event");
    let step: Option<i32> = row.get("step");
    let step = step.zip(row.get("step_sql"));
    let step = step.map(|(number, sql)| AtStep { number, of: row.get("steps"), sql });
    Ok(Some(Status {
        percent: row.get("percent"),
        step,
        source: row.get("source"),
        shadow: row.get("shadow"),
        run_by: None,
        host: None,
        process: None,
        rows_copied: row.get("rows_copied"),
        rows_estimated: row.get("rows_estimated"),
        rows_per_second: row.get("rows_per_second"),
        eta: span(row.get("eta_first"), row.get("eta_last")),
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
        verify_seconds: row.get("verify_seconds"),
        blocked_by: Vec::new(),
        given_up: store::is_given_up(session, migration).await?,
        last_event,
        lock_waits: row.get("lock_waits"),
        blocks: watchdog::waiting_for_ours(session, migration).await? > 0,
        signals: signals.and_then(|all| serde_json::from_value(all).ok()).unwrap_or_default(),
        signals_are_fresh: row.get("fresh"),
        silent_seconds: row.get("silent_seconds"),
        dry_run: false,
        phase: row.get("phase"),
    }))
}

fn span(first: Option<String>, last: Option<String>) -> Option<String> {
    first
        .zip(last)
        .map(|(first, last)| if first == last { first } else { format!("{first}–{last}") })
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
    fn builds_take_what_is_read_and_written() {
        let disk = Disk { shadow: 0, source: 1_000, indexes: 200, index_count: 3 };
        assert_eq!(disk.seconds(100, false), 10.0);
        assert_eq!(disk.seconds(100, true), 2.0);
    }
}
