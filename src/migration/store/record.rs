//! The row of a migration: what was asked for, and where it stands.

use serde_json::Value;
use tokio_postgres::types::ToSql;

use super::epoch::host;
use super::{event, schema};
use crate::change::Request;
use crate::error::{Error, Kind, Result};
use crate::migration::Phase;
use crate::pg::sqlstate::UNDEFINED_TABLE;
use crate::pg::{QualifiedName, Session, shell_word};
use crate::shadow::Names;

/// The phase of a dry run, from its beginning to its end: none that a run goes on from, whatever its version.
pub(in crate::migration) const DRY_RUN: &str = "dry run";

/// One migration as stored.
#[derive(Debug)]
pub(in crate::migration) struct Stored {
    pub id: i64,
    pub phase: String,
    pub names: Names,
    pub source_oid: u32,
    pub shadow_oid: Option<u32>,
    /// Of flow 1, as stored or, where no flow is, as they would be called: a state that somebody took parts
    /// of away must not hide what holds the server back.
    pub publication: String,
    pub slot: String,
    pub epoch: i64,
    pub request: Request,
    /// The flags of its last run; null where an older program began it.
    pub options: Value,
    /// The settings that rows are made by, once there is a shadow.
    pub making: Option<Vec<(String, String)>>,
    /// The cluster and its timeline.
    pub system: Option<(String, i32)>,
    pub swapped: bool,
    /// Where its last run is or was: host and process.
    pub run_by: Option<(String, i64)>,
}

impl Stored {
    /// Where it stands, as far as this program knows the phase.
    pub(in crate::migration) fn phase(&self) -> Option<Phase> {
        Phase::parse(&self.phase)
    }

    /// Whether it is a dry run, which nobody goes on with.
    pub(in crate::migration) fn is_dry_run(&self) -> bool {
        self.phase == DRY_RUN
    }
}

/// The unfinished migration of the table with this oid.
pub(in crate::migration) async fn unfinished(
    session: &Session,
    source_oid: u32,
) -> Result<Option<Stored>> {
    let condition = "m.finished_at IS NULL AND m.source_oid = $1";
    Ok(read(session, condition, &[&source_oid]).await?.into_iter().next())
}

/// The unfinished migrations of tables that had this name, in whatever schema.
pub(in crate::migration) async fn unfinished_by_name(
    session: &Session,
    name: &str,
) -> Result<Vec<Stored>> {
    let condition = "m.finished_at IS NULL AND m.source_name = $1 ORDER BY m.id DESC";
    read(session, condition, &[&name]).await
}

/// The migrations whose swap gave a table its shape, the last one first. By the shadow's oid: after the
/// swap that is the table which has the name.
pub(in crate::migration) async fn swapped(
    session: &Session,
    shadow_oid: u32,
) -> Result<Vec<Stored>> {
    let condition = "m.outcome = 'swapped' AND m.shadow_oid = $1 ORDER BY m.id DESC";
    read(session, condition, &[&shadow_oid]).await
}

/// Those that swapped of tables that had this name, whichever has it now.
pub(in crate::migration) async fn swapped_by_name(
    session: &Session,
    name: &str,
) -> Result<Vec<Stored>> {
    let condition = "m.outcome = 'swapped' AND m.source_name = $1 ORDER BY m.id DESC";
    read(session, condition, &[&name]).await
}

/// All that were begun and are neither undone nor at their end.
pub(in crate::migration) async fn all_unfinished(session: &Session) -> Result<Vec<Stored>> {
    let condition = "(m.finished_at IS NULL OR m.outcome = 'swapped' AND NOT EXISTS (SELECT 1 FROM pgwraith.event e \
                     WHERE e.migration_id = m.id AND e.what = 'finished')) ORDER BY m.id";
    read(session, condition, &[]).await
}

/// The migration with this id.
pub(in crate::migration) async fn load(
    session: &Session,
    migration: i64,
) -> Result<Option<Stored>> {
    Ok(read(session, "m.id = $1", &[&migration]).await?.into_iter().next())
}

async fn read(
    session: &Session,
    condition: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Stored>> {
    if schema::version(session).await?.is_none() {
        return Ok(vec![]);
    }
    // Columns that came later are read as JSON: the state may be of an older version.
    let sql = format!(
        "SELECT m.id, m.phase, m.source_schema, m.source_name, m.source_oid, m.shadow_name, \
         m.shadow_oid, \
         COALESCE(f.publication, 'pgwraith_' || m.id), \
         COALESCE(f.slot, (SELECT 'pgwraith_' || d.oid || '_' || m.id FROM pg_catalog.pg_database d \
           WHERE d.datname = pg_catalog.current_database())), m.retired_name, m.epoch, m.change, pg_catalog.to_jsonb(m), \
         m.system_identifier, m.timeline, COALESCE(m.outcome = 'swapped', false) \
         FROM pgwraith.migration m LEFT JOIN pgwraith.flow f ON f.migration_id = m.id AND f.flow = 1 \
         WHERE {condition}"
    );
    let rows = session.query(&sql, parameters).await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &tokio_postgres::Row) -> Result<Stored> {
    let name = |column| QualifiedName::new(row.get::<_, &str>(2), row.get::<_, &str>(column));
    let unreadable = |e| Error::failed(format!("a stored change cannot be read: {e}"));
    let all: Value = row.get(12);
    let host = all["host"].as_str().map(str::to_owned);
    Ok(Stored {
        id: row.get(0),
        phase: row.get(1),
        names: Names { source: name(3), shadow: name(5), retired: name(9) },
        source_oid: row.get(4),
        shadow_oid: row.get(6),
        publication: row.get(7),
        slot: row.get(8),
        epoch: row.get(10),
        request: serde_json::from_value(row.get(11)).map_err(unreadable)?,
        options: all["options"].clone(),
        making: serde_json::from_value(all["settings"].clone()).ok(),
        system: row.get::<_, Option<String>>(13).zip(row.get(14)),
        swapped: row.get(15),
        run_by: host.zip(all["process"].as_i64()),
    })
}

/// Begins a migration of about so many rows: its row, epoch 1, in `phase`. Refused where the table has one already.
///
/// Its id is the transaction's, so that no later migration ever has the same, although an abort
/// drops the state and with it any counter: slot, publication and sessions are named by the id, and
/// a run that wakes up after its abort must not mistake its successor's for its own
/// (**Invariant 9**).
pub(in crate::migration) async fn begin(
    session: &Session,
    source_oid: u32,
    names: &Names,
    request: &Request,
    options: &Value,
    (phase, rows): (&str, Option<i64>),
) -> Result<i64> {
    let change = serde_json::to_value(request)
        .map_err(|e| Error::failed(format!("the change cannot be stored: {e}")))?;
    let (host, process) = (host(), i64::from(std::process::id()));
    let sql = "INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, \
               retired_name, change, tool_version, options, host, process, phase, rows_estimated, run_started_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, pg_catalog.clock_timestamp()) RETURNING id";
    let source = &names.source;
    let version = env!("CARGO_PKG_VERSION");
    let (shadow, retired) = (&names.shadow.name, &names.retired.name);
    let row: [&(dyn ToSql + Sync); 12] = [
        &source.schema,
        &source.name,
        &source_oid,
        shadow,
        retired,
        &change,
        &version,
        options,
        &host,
        &process,
        &phase,
        &rows,
    ];
    let mut again = true;
    loop {
        schema::ensure(session).await?;
        match session.one(sql, &row).await {
            Ok(row) => return Ok(row.get(0)),
            // Whoever forgot the last migration took the state with him.
            Err(e) if again && matches!(e.sqlstate(), Some(UNDEFINED_TABLE | "3F000")) => {
                again = false
            }
            Err(e) if e.sqlstate() == Some("23505") => {
                let word = shell_word(&source.to_string());
                return Err(Error::new(
                    Kind::Refused,
                    format!("{source} has another migration already"),
                )
                .next(format!(
                    "`pgwraith resume {word}` goes on with it, `pgwraith abort {word}` undoes it"
                )));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Records the shadow's oid and the settings that the projection runs under.
pub(in crate::migration) async fn record_shadow(
    session: &Session,
    migration: i64,
    oid: u32,
    making: &[(String, String)],
) -> Result<()> {
    let settings = serde_json::to_value(making).unwrap_or(Value::Null);
    let sql = "UPDATE pgwraith.migration SET shadow_oid = $2, settings = $3 WHERE id = $1";
    session.execute(sql, &[&migration, &oid, &settings]).await?;
    Ok(())
}

/// Enters a phase; `at` is how far the migration had come before, which stays where that is further.
/// Called only while no writer has a transaction open: under repeatable read they would fail to lock the
/// row.
pub(in crate::migration) async fn enter(
    session: &Session,
    migration: i64,
    phase: Phase,
    at: Phase,
) -> Result<()> {
    let furthest = phase.max(at);
    let sql = "UPDATE pgwraith.migration SET phase = $2 WHERE id = $1 AND phase <> $2";
    session.execute(sql, &[&migration, &furthest.as_str()]).await?;
    event(session, migration, "phase", phase.as_str()).await
}

/// Keeps the flags that a run was resumed with.
pub(in crate::migration) async fn keep_options(
    session: &Session,
    migration: i64,
    options: &Value,
) -> Result<()> {
    let sql = "UPDATE pgwraith.migration SET options = $2 WHERE id = $1";
    session.execute(sql, &[&migration, options]).await?;
    Ok(())
}

/// Sets some of the flags.
pub(in crate::migration) async fn set_options(
    session: &Session,
    migration: i64,
    flags: &Value,
) -> Result<()> {
    let sql = "UPDATE pgwraith.migration SET options = COALESCE(NULLIF(options, 'null'), '{}') || $2 WHERE id = $1";
    session.execute(sql, &[&migration, flags]).await?;
    Ok(())
}

/// The flags as they are by now; None where the migration is gone.
pub(in crate::migration) async fn options(
    session: &Session,
    migration: i64,
) -> Result<Option<Value>> {
    let sql = "SELECT COALESCE(options, 'null') FROM pgwraith.migration WHERE id = $1";
    Ok(session.maybe(sql, &[&migration]).await?.map(|row| row.get(0)))
}

/// Whether the migration's names were swapped.
pub(in crate::migration) async fn is_swapped(session: &Session, migration: i64) -> Result<bool> {
    let sql = "SELECT outcome IS NOT DISTINCT FROM 'swapped' FROM pgwraith.migration WHERE id = $1";
    Ok(session.maybe(sql, &[&migration]).await?.is_some_and(|row| row.get(0)))
}

/// Whether a run of the migration came to its end.
pub(in crate::migration) async fn is_finished(session: &Session, migration: i64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pgwraith.event e \
               WHERE e.migration_id = $1 AND e.what = 'finished')";
    Ok(session.one(sql, &[&migration]).await?.get(0))
}

/// Removes a migration's state, and the schema with the last one.
pub(in crate::migration) async fn forget(session: &Session, migration: i64) -> Result<()> {
    session.batch("BEGIN").await?;
    for table in ["dirty", "chunk", "flow", "event", "progress", "step"] {
        let sql = format!("DELETE FROM pgwraith.{table} WHERE migration_id = $1");
        session.execute(&sql, &[&migration]).await?;
    }
    // Locked against a migration that begins meanwhile, and would lose its state with the schema, and against
    // another that is forgotten at the same time: each would leave the schema to the other. At once, so that
    // a tool that freezes holds no lock. Whoever was granted the tables one by one may not drop the
    // schema: it stays, and is empty.
    let sql = format!(
        "LOCK TABLE pgwraith.migration IN SHARE ROW EXCLUSIVE MODE; \
         DELETE FROM pgwraith.migration WHERE id = {migration}; \
         DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pgwraith.migration) AND (\
           SELECT pg_catalog.pg_has_role(n.nspowner, 'USAGE') FROM pg_catalog.pg_namespace n \
           WHERE n.nspname = 'pgwraith') \
         THEN DROP SCHEMA pgwraith CASCADE; END IF; END $$; COMMIT"
    );
    session.batch(&sql).await
}
