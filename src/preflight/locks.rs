//! What the swap locks, the connecting role may lock: as a member it has the owners' rights, but an owner
//! may have taken his own from himself.

use super::{Finding, Result, Subject};
use crate::pg::{QualifiedName, quote_ident};

/// LOCK TABLE in the strongest mode takes one of these (PostgreSQL documentation, LOCK), or MAINTAIN (17);
/// binding a
/// foreign key anew takes REFERENCES on the columns that it refers to.
const MISSING: &str = "
WITH k AS (SELECT k.*, f.relowner AS referring FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class f ON f.oid = k.conrelid
  WHERE k.contype = 'f' AND $1 IN (k.conrelid, k.confrelid)),
needed AS (
  SELECT u.oid, 'UPDATE' AS privilege, 'UPDATE, DELETE, TRUNCATE' AS any_of, NULL::pg_catalog.int2[] AS columns, NULL::pg_catalog.oid AS also FROM (
      SELECT $1::pg_catalog.oid AS oid UNION SELECT k.conrelid FROM k UNION SELECT k.confrelid FROM k
      UNION SELECT p.oid FROM pg_catalog.unnest($2::pg_catalog.oid[]) p (oid)) u
  UNION ALL SELECT k.confrelid, 'REFERENCES', 'REFERENCES', k.confkey, k.referring FROM k WHERE k.confrelid <> $1)
SELECT DISTINCT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, SESSION_USER::pg_catalog.text, x.privilege
FROM needed x JOIN pg_catalog.pg_class c ON c.oid = x.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT EXISTS (
  SELECT 1 FROM pg_catalog.pg_roles r WHERE (r.oid IN (c.relowner, x.also) OR r.rolname = SESSION_USER)
    AND (pg_catalog.has_table_privilege(r.oid, x.oid, x.any_of)
      OR (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(r.oid, x.oid, a.n, x.privilege))
        FROM pg_catalog.unnest(x.columns) a (n))))
ORDER BY 1, 2, 4";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let carried = crate::catalog::carried(subject.session, subject.table.oid).await?;
    let hanging = carried.iter().filter_map(|thing| thing.relation.as_ref());
    let hanging: Vec<u32> = hanging.map(|relation| relation.oid).collect();
    let missing = match subject.session.version() {
        170_000.. => &MISSING.replace("DELETE, TRUNCATE'", "DELETE, TRUNCATE, MAINTAIN'"),
        _ => MISSING,
    };
    let rows = subject.session.query(missing, &[&subject.table.oid, &hanging]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let table = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let (role, privilege): (_, &str) = (quote_ident(row.get(2)), row.get(3));
        let why = match privilege {
            "UPDATE" => "which the swap locks, and which takes UPDATE, DELETE or TRUNCATE",
            _ => "for a foreign key that the swap binds anew",
        };
        Finding::refuse(
            format!("{role} lacks {privilege} on {table}, {why}; its owner took it from himself"),
            format!("GRANT {privilege} ON {table} TO {role}"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
