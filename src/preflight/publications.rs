//! No publication takes in tables by itself: it would ship the new table to subscribers that have
//! no such table, and their replication would stop.

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT p.pubname::pg_catalog.text, p.puballtables FROM pg_catalog.pg_publication p
               WHERE p.puballtables OR EXISTS (
                 SELECT 1 FROM pg_catalog.pg_publication_namespace m
                 JOIN pg_catalog.pg_namespace n ON n.oid = m.pnnspid
                 WHERE m.pnpubid = p.oid AND n.nspname = $1)
               ORDER BY p.pubname";
    let rows = subject.session.query(sql, &[&subject.table.schema]).await?;
    Ok(rows.iter().map(|row| finding(subject, row.get(0), row.get(1))).collect())
}

fn finding(subject: &Subject<'_>, publication: &str, all_tables: bool) -> Finding {
    let name = quote_ident(publication);
    let schema = quote_ident(&subject.table.schema);
    let afterwards = "then ALTER SUBSCRIPTION … REFRESH PUBLICATION on the subscribers";
    if all_tables {
        return Finding::refuse(
            format!(
                "publication {name} is FOR ALL TABLES and would ship the new table to subscribers without it"
            ),
            format!(
                "DROP PUBLICATION {name} and create it again FOR TABLE with the tables listed; {afterwards}"
            ),
        );
    }
    Finding::refuse(
        format!(
            "publication {name} is FOR TABLES IN SCHEMA {schema} and would ship the new table to subscribers without it"
        ),
        format!(
            "ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {schema}, and ALTER PUBLICATION {name} \
             ADD TABLE for each table needed but this one; {afterwards}"
        ),
    )
}
