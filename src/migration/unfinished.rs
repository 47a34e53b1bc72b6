//! Takes away the shadow of a migration that is undone: the very table that the run made, whatever it is
//! called now, and nobody else's.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::store::{self, Stored};
use crate::catalog::{self, Table};
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session, Who, shell_word};
use crate::telemetry::Meter;

/// Nobody but somebody who looks at the shadow queues behind us; after so long, say whom we wait for.
const LOCK_TIMEOUT: &str = "2s";
/// The same ones are told again only after this.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What became of it.
#[derive(Debug)]
pub enum Shadow {
    /// It was not made yet, or is gone.
    NotThere,
    /// Dropped, under the name it had.
    Dropped(QualifiedName),
    /// A table that may be somebody else's was left: what, and why.
    Left(String),
}

/// Drops it.
///
/// The oid says which table it is. Alone it does not prove that: oids come around again in the end, and a
/// state that was restored from a dump names tables by the oids of another database. So it has the recorded
/// name too, or, where somebody renamed or moved it, the columns that the run gave it.
pub(super) async fn drop_shadow(
    session: &Session,
    stored: &Stored,
    meter: &Meter,
) -> Result<Shadow> {
    let shadow = &stored.names.shadow;
    let there = match stored.shadow_oid {
        Some(oid) if oid != stored.source_oid => catalog::read(session, oid).await?,
        _ => None,
    };
    let Some(there) = there else {
        let other = catalog::read_named(session, shadow).await?.is_some();
        return Ok(match other {
            true => Shadow::Left(format!(
                "A table {shadow} is there that is not the one the run made: it is left"
            )),
            false => Shadow::NotThere,
        });
    };
    let name = there.qualified();
    if name != *shadow && !has_its_columns(session, stored, &there).await? {
        return Ok(Shadow::Left(format!(
            "{name} has the oid of the unfinished shadow {shadow}, but neither its name nor its columns: it is \
             left. If it is the shadow: DROP TABLE {name}"
        )));
    }
    match drop_table(session, &there, meter).await {
        Ok(()) => Ok(Shadow::Dropped(name)),
        Err(e) => Err(cannot_drop(e, &name, &stored.names.source)),
    }
}

/// Drops the table as soon as it gets its lock. Says for whom it waits.
pub(super) async fn drop_table(session: &Session, table: &Table, meter: &Meter) -> Result<()> {
    let sql = format!("DROP TABLE {}", table.qualified());
    let mut told = None::<(Vec<Option<i32>>, Instant)>;
    session.set("lock_timeout", LOCK_TIMEOUT).await?;
    let done = loop {
        match session.batch(&sql).await {
            Err(e) if e.sqlstate() == Some("55P03") => {
                tell(session, table, &mut told, meter).await?
            }
            done => break done,
        }
    };
    session.set("lock_timeout", "0").await?;
    done
}

/// Who has a lock on the table. The same ones are told again only after a while.
async fn tell(
    session: &Session,
    table: &Table,
    told: &mut Option<(Vec<Option<i32>>, Instant)>,
    meter: &Meter,
) -> Result<()> {
    let sql = format!(
        "SELECT {} FROM (SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l \
           WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted \
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
           AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) h \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = h.pid \
         WHERE h.pid IS NULL OR a.pid IS NOT NULL ORDER BY h.pid NULLS FIRST",
        Who::COLUMNS
    );
    let rows = session.query(&sql, &[&table.oid]).await?;
    let pids: Vec<Option<i32>> = rows.iter().map(|row| row.get(0)).collect();
    if told.as_ref().is_some_and(|(who, at)| *who == pids && at.elapsed() < TELL_AGAIN) {
        return Ok(());
    }
    let holder = |row: &tokio_postgres::Row| match row.get::<_, Option<i32>>(0) {
        None => "a prepared transaction".to_owned(),
        Some(_) => Who::of(row).to_string(),
    };
    let who: Vec<String> = rows.iter().map(holder).collect();
    let who = if who.is_empty() { "somebody who has ended".to_owned() } else { who.join("; ") };
    meter.note(format!(
        "DROP TABLE {} waits for the lock of {who}. It is tried on; nothing holds WAL back meanwhile",
        table.qualified()
    ));
    *told = Some((pids, Instant::now()));
    Ok(())
}

/// The slot went before: whatever is in the way of the table holds no WAL back.
fn cannot_drop(e: Error, shadow: &QualifiedName, source: &QualifiedName) -> Error {
    let again = format!("`pgwraith abort {}`", shell_word(&source.to_string()));
    let dependents = match e.sqlstate() {
        Some("2BP01") => e.db().and_then(|db| db.detail()).map(|detail| detail.replace('\n', ", ")),
        _ => None,
    };
    let (e, next) = match dependents {
        Some(dependents) => (
            Error::failed(format!(
                "the unfinished shadow {shadow} cannot be dropped: {dependents}"
            ))
            .source(e),
            format!("Drop what depends on it, then {again}"),
        ),
        None => (
            e.context(format!("dropping the unfinished shadow {shadow}")),
            format!("When that is mended: {again}"),
        ),
    };
    e.state("Slot and publication are gone, nothing holds WAL back any more; the shadow and the state are left")
        .next(next)
}

/// Whether the table has the columns that the run gave its shadow, as far as the state knows them.
async fn has_its_columns(session: &Session, stored: &Stored, table: &Table) -> Result<bool> {
    let Some(kept) = store::kept(session, stored.id).await? else { return Ok(false) };
    // An index has no type.
    let is_column = |part: &&Value| part[1] != "";
    let made: Vec<&Value> = kept.shape.as_array().into_iter().flatten().filter(is_column).collect();
    let shape = serde_json::to_value(table.shape()).unwrap_or_default();
    let has: Vec<&Value> = shape.as_array().into_iter().flatten().filter(is_column).collect();
    Ok(!made.is_empty() && made == has)
}
