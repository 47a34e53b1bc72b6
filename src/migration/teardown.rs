//! Takes away what holds the server back: our sessions, the slot, the publication; and the view on the
//! source, which would keep it from being altered and dropped.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::slot;
use super::store::{self, Stored};
use super::unfinished::{self, Shadow};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::flow::write::superseded;
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::telemetry::Meter;

/// How long our own backends may take to end.
const LIMIT: Duration = Duration::from_secs(30);

/// What the names of all sessions of a migration are like.
pub(super) fn session_names(migration: i64) -> String {
    format!("{}%", crate::pg::session::application_name(&format!("{migration}/")))
}

/// Whether anything of the migration is there that holds the server back.
pub(super) async fn is_anything_left(session: &Session, stored: &Stored) -> Result<bool> {
    let sql = "
      SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1)
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_publication p WHERE p.pubname = $2)
        OR pg_catalog.to_regclass($3) IS NOT NULL
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE $4
          AND a.datname = pg_catalog.current_database())";
    let view = rows_view(stored.id).to_string();
    let names = session_names(stored.id);
    let row = session.one(sql, &[&stored.slot, &stored.publication, &view, &names]).await?;
    Ok(row.get(0))
}

/// Ends every session of the migration but this one; a dead tool's too.
pub(super) async fn end_sessions(session: &Session, migration: i64) -> Result<()> {
    end_sessions_named(session, &session_names(migration)).await
}

/// Ends every session that builds an index for the migration, but this one. A backend that sorts does
/// not notice that its client is gone, and would go on for hours.
pub(super) async fn end_builders(session: &Session, migration: i64) -> Result<()> {
    let role = format!("{migration}/index %");
    end_sessions_named(session, &crate::pg::session::application_name(&role)).await
}

async fn end_sessions_named(session: &Session, pattern: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        // Within a transaction the activity stays as it was first seen.
        session.query("SELECT pg_catalog.pg_stat_clear_snapshot()", &[]).await?;
        let left = session
            .query(
                "SELECT a.pid, pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a \
                 WHERE a.application_name LIKE $1 AND a.pid <> pg_catalog.pg_backend_pid() \
                 AND a.datname = pg_catalog.current_database()",
                &[&pattern],
            )
            .await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = left.iter().map(|r| r.get::<_, i32>(0).to_string()).collect();
            return Err(Error::failed(format!(
                "sessions of the migration do not end: pid {}",
                pids.join(", ")
            )));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Drops the slot, ending whoever streams from it. Nothing happens where it is gone, or is another
/// database's: this one may be a copy of that, state and all.
pub(super) async fn drop_slot(session: &Session, slot: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = session
            .maybe(
                "SELECT s.active_pid FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1 \
                 AND s.database = pg_catalog.current_database()",
                &[&slot],
            )
            .await?;
        let Some(row) = found else { return Ok(()) };
        match row.get::<_, Option<i32>>(0) {
            Some(pid) => {
                session.query("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid]).await?;
            }
            None => {
                let sql = "SELECT pg_catalog.pg_drop_replication_slot($1)";
                match session.query(sql, &[&slot]).await {
                    Ok(_) => return Ok(()),
                    // In use for another moment, or gone meanwhile.
                    Err(e) if matches!(e.sqlstate(), Some("55006" | "42704")) => {}
                    Err(e) => return Err(e.context(format!("dropping replication slot {slot}"))),
                }
            }
        }
        if Instant::now() > deadline {
            return Err(Error::failed(format!("replication slot {slot} is in use"))
                .next(format!("It holds WAL back: SELECT pg_drop_replication_slot('{slot}')")));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Drops the publication where it is there.
pub(super) async fn drop_publication(session: &Session, publication: &str) -> Result<()> {
    session.batch(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(publication))).await
}

/// The name of the view that the rows of a migration's source are read through, where they are.
pub(super) fn rows_view(migration: i64) -> QualifiedName {
    QualifiedName::new("pgwraith", format!("rows_{migration}"))
}

/// Drops that view where it is there.
pub(super) async fn drop_rows_view(session: &Session, migration: i64) -> Result<()> {
    session.batch(&format!("DROP VIEW IF EXISTS {}", rows_view(migration))).await
}

/// Takes away what a run needed on the source's side, once the names are swapped. Whoever takes the
/// migration over meanwhile does the same.
pub(super) async fn after_swap(session: &Session, migration: i64, epoch: i64) -> Result<()> {
    if !store::hold_epoch(session, migration, epoch).await? {
        return Err(superseded());
    }
    session.rollback().await;
    let stored = store::load(session, migration).await?.ok_or_else(superseded)?;
    slot::check_cluster(session, &stored).await?;
    end_sessions(session, migration).await?;
    release(session, &stored).await
}

/// Takes everything away that a preparation makes, as far as it came.
pub(super) async fn undo(session: &Session, stored: &Stored, meter: &Meter) -> Result<Shadow> {
    release(session, stored).await?;
    let shadow = unfinished::drop_shadow(session, stored, meter).await?;
    failpoint!("shadow dropped");
    Ok(shadow)
}

/// Slot, publication and view, as far as they are there.
pub(super) async fn release(session: &Session, stored: &Stored) -> Result<()> {
    drop_slot(session, &stored.slot).await?;
    failpoint!("slot dropped");
    drop_publication(session, &stored.publication).await?;
    failpoint!("publication dropped");
    drop_rows_view(session, stored.id).await
}
