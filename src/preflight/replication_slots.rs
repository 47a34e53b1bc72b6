//! A replication slot is free.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT pg_catalog.current_setting('max_replication_slots')::pg_catalog.int8, \
               pg_catalog.count(*), \
               pg_catalog.string_agg(s.slot_name::pg_catalog.text, ', ' ORDER BY s.slot_name) \
                 FILTER (WHERE NOT s.active) \
               FROM pg_catalog.pg_replication_slots s";
    let row = subject.session.one(sql, &[]).await?;
    let (most, used): (i64, i64) = (row.get(0), row.get(1));
    if used < most {
        return Ok(vec![]);
    }
    let idle: Option<String> = row.get(2);
    let idle = idle.map(|names| format!(" (not in use now: {names})")).unwrap_or_default();
    Ok(vec![Finding::refuse(
        format!("no replication slot is free: {used} of max_replication_slots = {most} exist"),
        format!(
            "Drop a slot that nobody needs{idle}, or ALTER SYSTEM SET max_replication_slots = {}; \
             then restart the server",
            most + 1
        ),
    )])
}
