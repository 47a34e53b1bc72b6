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
    let mut findings: Vec<Finding> =
        rows.iter().map(|row| finding(subject, row.get(0), row.get(1))).collect();
    if subject.table.is_partitioned() {
        findings.extend(under_other_names(subject).await?);
    }
    Ok(findings)
}

/// Subscribers know the partitions of now, and none of later.
async fn under_other_names(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = "SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p \
               JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid WHERE r.prrelid = $1 AND NOT p.pubviaroot \
               AND p.pubname OPERATOR(pg_catalog.!~) '^pgwraith_[0-9]+$' ORDER BY 1";
    let rows = subject.session.query(sql, &[&subject.table.oid]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, table) = (quote_ident(row.get(0)), subject.table.qualified());
        Finding::refuse(
            format!(
                "publication {name} sends the changes of {table} under its partitions' names, and subscribers do not know \
                 those of the new table"
            ),
            format!(
                "ALTER PUBLICATION {name} SET (publish_via_partition_root = true), then ALTER SUBSCRIPTION … REFRESH \
                 PUBLICATION on the subscribers"
            ),
        )
    };
    Ok(rows.iter().map(finding).collect())
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
