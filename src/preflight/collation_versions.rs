//! The collations that order the table's text are those its indexes were built with. Otherwise an
//! index may be in the wrong order, and a range read through it miss rows.

use super::{Finding, Result, Subject};
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let rows = subject.session.query(CHANGED, &[&subject.table.oid]).await?;
    Ok(rows.iter().map(|row| finding(subject, row)).collect())
}

fn finding(subject: &Subject<'_>, row: &tokio_postgres::Row) -> Finding {
    let (stored, actual): (&str, &str) = (row.get(1), row.get(2));
    let database = quote_ident(&subject.connector.info().dbname);
    let (what, refresh) = match row.get::<_, Option<&str>>(0) {
        Some(name) => {
            (format!("collation {name}"), format!("ALTER COLLATION {name} REFRESH VERSION"))
        }
        None => (
            format!("the collation of database {database}"),
            format!("ALTER DATABASE {database} REFRESH COLLATION VERSION"),
        ),
    };
    Finding::warn(
        format!(
            "{what} was made with version {stored}, and the system now has {actual}: indexes on \
             text may be in the wrong order"
        ),
        format!(
            "REINDEX TABLE CONCURRENTLY {} (and whatever else sorts by it), then {refresh}",
            subject.table.qualified()
        ),
    )
}

/// Of every column in an index. The name is NULL for the database's own collation.
const CHANGED: &str = "
  WITH used AS (
    SELECT DISTINCT k.oid FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL pg_catalog.unnest(i.indcollation::pg_catalog.oid[]) k(oid)
    WHERE i.indrelid = $1 AND k.oid <> 0)
  SELECT x.name, x.stored, x.actual FROM (
    SELECT pg_catalog.format('%I.%I', n.nspname, c.collname) AS name, c.collversion AS stored,
      pg_catalog.pg_collation_actual_version(c.oid) AS actual
    FROM used u JOIN pg_catalog.pg_collation c ON c.oid = u.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE c.collprovider <> 'd'
    UNION ALL
    SELECT NULL, d.datcollversion, pg_catalog.pg_database_collation_actual_version(d.oid)
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
      AND EXISTS (SELECT 1 FROM used u JOIN pg_catalog.pg_collation c ON c.oid = u.oid
        WHERE c.collprovider = 'd')) x
  WHERE x.stored <> x.actual ORDER BY 1";
