//! From 17 on our slot is one that may fail over, and the server sends such a stream only what the slots in
//! `synchronized_standby_slots` have confirmed (PostgreSQL documentation, Logical Replication Failover): a
//! standby that is down holds the whole run up.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT x.name, s.slot_name IS NOT NULL AND s.slot_type = 'physical', COALESCE(s.active, false) \
               FROM pg_catalog.unnest(pg_catalog.string_to_array( \
                 pg_catalog.current_setting('synchronized_standby_slots', true), ',')) WITH ORDINALITY u (name, n), \
               LATERAL (SELECT pg_catalog.btrim(u.name, ' \"') AS name) x \
               LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = x.name WHERE x.name <> '' ORDER BY u.n";
    let rows = subject.session.query(sql, &[]).await?;
    let slots: Vec<(&str, bool, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let names: Vec<&str> = slots.iter().map(|(name, ..)| *name).collect();
    let missing = slots.iter().filter(|(_, exists, active)| !(*exists && *active));
    let mut found: Vec<Finding> =
        missing.map(|(name, exists, _)| not_there(name, *exists)).collect();
    if found.is_empty() && !names.is_empty() {
        found.push(Finding::warn(
            format!(
                "the stream waits for the standbys of synchronized_standby_slots ({}): one that falls behind or \
                 is down holds the run up, and WAL with it",
                names.join(", ")
            ),
            "See that they stay up; or take a name out of the setting, and reload, should one go down",
        ));
    }
    Ok(found)
}

fn not_there(name: &str, exists: bool) -> Finding {
    let what =
        if exists { "is used by no standby now" } else { "is no physical slot of this server" };
    Finding::refuse(
        format!(
            "synchronized_standby_slots names {name:?}, which {what}: the run's stream would wait for it without end"
        ),
        "Bring that standby up; or take the name out (ALTER SYSTEM SET synchronized_standby_slots = …; SELECT \
         pg_reload_conf())",
    )
}
