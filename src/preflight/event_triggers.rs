//! Event triggers fire on our DDL too.

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT e.evtname::pg_catalog.text, e.evtevent::pg_catalog.text, e.evtfoid::pg_catalog.regproc::pg_catalog.text
               FROM pg_catalog.pg_event_trigger e WHERE e.evtenabled <> 'D' ORDER BY e.evtname";
    let rows = subject.session.query(sql, &[]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let name = quote_ident(row.get(0));
        let (event, function): (&str, &str) = (row.get(1), row.get(2));
        Finding::warn(
            format!(
                "event trigger {name} ({event}) runs {function} on the statements of the run, also under the cutover's lock"
            ),
            format!(
                "See that it lets them pass and is quick; or ALTER EVENT TRIGGER {name} DISABLE meanwhile"
            ),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
