//! Whether the slot still tells everything that happened since its position was stored.

use super::store::{Kept, Stored};
use crate::catalog::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::pg::{Connector, Lsn, Session, shell_word};
use crate::shadow::Names;
use crate::wal::ReplicationConn;

/// Why the slot is of no use any more; None where it is. `NotResumable` on another cluster.
pub(super) async fn lost(
    connector: &Connector,
    control: &Session,
    stored: &Stored,
    kept: &Kept,
    flow: &Flow,
    (was, now): (&Fingerprint, &Fingerprint),
) -> Result<Option<String>> {
    let role = format!("{}/identify", stored.id);
    let mut connection = ReplicationConn::open(connector, &role, control.encoding()).await?;
    let system = connection.identify_system().await?;
    drop(connection);
    if let Some((identifier, timeline)) = &stored.system {
        same_cluster(stored, identifier, &system.system_identifier)?;
        // A slot may survive a promotion, but not what it would have told of what was lost in it.
        if *timeline != system.timeline {
            return Ok(Some(format!(
                "the server was promoted since (timeline {timeline} then, {} now)",
                system.timeline
            )));
        }
    }
    if !was.differences(now).is_empty() {
        return Ok(Some("the publication was altered, or made anew".to_owned()));
    }
    slot(control, flow, kept.stored).await
}

async fn slot(control: &Session, flow: &Flow, stored: Option<Lsn>) -> Result<Option<String>> {
    // 17 has a reason of its own for each slot that it gave up.
    let sql = "SELECT s.confirmed_flush_lsn, COALESCE(s.wal_status, ''), \
               pg_catalog.to_jsonb(s)->>'invalidation_reason' \
               FROM pg_catalog.pg_replication_slots s \
               WHERE s.slot_name = $1 AND s.database = pg_catalog.current_database()";
    let name = &flow.slot;
    let Some(row) = control.maybe(sql, &[name]).await? else {
        return Ok(Some(format!("the replication slot {name} is gone")));
    };
    let (confirmed, status): (Option<Lsn>, &str) = (row.get(0), row.get(1));
    if let Some(reason) = row.get::<_, Option<&str>>(2) {
        return Ok(Some(format!("the server invalidated the replication slot {name} ({reason})")));
    }
    if status == "lost" {
        return Ok(Some(format!(
            "the server removed log that the replication slot {name} needs (max_slot_wal_keep_size)"
        )));
    }
    // Invariant 5: stored first, confirmed afterwards.
    Ok(match (confirmed, stored) {
        (Some(confirmed), Some(stored)) if confirmed <= stored => None,
        (Some(confirmed), _) => Some(format!(
            "the replication slot {name} was moved to {confirmed}, past what is stored"
        )),
        (None, _) => Some(format!("the replication slot {name} has no position")),
    })
}

/// Refuses a state that is of another cluster, in whatever phase: this one may be a copy of that, or the
/// name may have come to mean another server.
pub(super) async fn check_cluster(session: &Session, stored: &Stored) -> Result<()> {
    let Some((then, _)) = &stored.system else { return Ok(()) };
    let sql = "SELECT s.system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system() s";
    let now: String = match session.one(sql, &[]).await {
        Ok(row) => row.get(0),
        // It is everybody's unless somebody took it away; the replication connection tells all the same,
        // where one is needed.
        Err(e) if e.sqlstate() == Some("42501") => return Ok(()),
        Err(e) => return Err(e),
    };
    // The function's result is signed, that of the replication protocol is not.
    let now = now.parse::<i64>().map_or(now, |signed| (signed as u64).to_string());
    same_cluster(stored, then, &now)
}

fn same_cluster(stored: &Stored, then: &str, now: &str) -> Result<()> {
    if then == now {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!(
            "the state of the migration of {} is of another cluster (system identifier {then}, here {now}): \
             this one is a copy of it",
            stored.names.source
        ),
    )
    .state("Nothing was touched")
    .next("Go on over there; here `pgwraith abort` removes the copied state and shadow"))
}

/// What to say where the slot is lost and nobody asked for a new one.
pub(super) fn cannot_go_on(why: &str, names: &Names) -> Error {
    Error::failed(format!("{why}: what the application changed since is not known"))
        .state(format!("{} is untouched and in use; the copy in {} is kept", names.source, names.shadow))
        .next(format!(
            "`pgwraith resume {} --recover` makes a new slot, compares every row and copies again only what differs",
            shell_word(&names.source.to_string())
        ))
}
