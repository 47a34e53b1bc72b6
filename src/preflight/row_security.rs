//! Where row security is forced on the owner, as whom the rows are read, they are read through a view
//! of the connecting role, which must then be above row security: a session that it applies to would
//! read fewer rows than there are.

use super::{Finding, Result, Subject};
use crate::catalog::Table;
use crate::pg::{QualifiedName, quote_ident};

const ROLE: &str = "
  SELECT r.rolname::pg_catalog.text, r.rolsuper OR r.rolbypassrls,
    COALESCE((SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
      FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgwraith'), true)
  FROM pg_catalog.pg_roles r WHERE r.rolname = SESSION_USER";

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    let row = subject.session.one(ROLE, &[]).await?;
    if !table.forces_row_security() {
        return Ok(if row.get(1) { vec![] } else { partners(table, row.get(0)) });
    }
    let (name, role) = (table.qualified(), quote_ident(row.get(0)));
    let above = (!row.get::<_, bool>(1)).then(|| {
        Finding::refuse(
            format!("row security of {name} is forced on its owner, and {role} does not bypass it"),
            format!(
                "ALTER ROLE {role} BYPASSRLS; or ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, if the \
                 owner may see every row meanwhile, and FORCE it again afterwards"
            ),
        )
    });
    let creates = (!row.get::<_, bool>(2)).then(|| {
        Finding::refuse(
            format!(
                "row security of {name} is forced on its owner, and {role} may not create in schema \
                 pgwraith the view that its rows are to be read through"
            ),
            format!("GRANT CREATE ON SCHEMA pgwraith TO {role}"),
        )
    });
    Ok(above.into_iter().chain(creates).collect())
}

/// After the swap foreign keys are validated by a look at both tables.
fn partners(table: &Table, role: &str) -> Vec<Finding> {
    let role = quote_ident(role);
    let validated = table.foreign_keys.iter().filter(|key| key.validated);
    let ends = validated.flat_map(|key| [&key.from, &key.to]);
    let mut hidden: Vec<_> =
        ends.filter(|e| e.forces_row_security).map(|e| e.qualified()).collect();
    hidden.sort();
    hidden.dedup();
    let finding = |name: &QualifiedName| {
        Finding::refuse(
            format!(
                "row security of {name}, at the other end of a foreign key, is forced on its owner, and {role} \
                 does not bypass it: the key could not be validated"
            ),
            format!("ALTER ROLE {role} BYPASSRLS"),
        )
    };
    hidden.iter().map(finding).collect()
}
