//! Whether the connecting role may use the state, which whoever ran the first migration made.

use crate::error::{Error, Kind, Result};
use crate::pg::{Session, quote_ident};

/// What is to be done with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

/// Refuses a role that may not; whose the state is, and what gives the right to it. Asks the catalog alone:
/// names in a schema that may not be used cannot be looked up.
pub(super) async fn check(session: &Session, how: Use) -> Result<()> {
    let sql = "
      SELECT o.rolname::pg_catalog.text, SESSION_USER::pg_catalog.text
      FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
      WHERE n.nspname = 'pgwraith' AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
          WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND NOT (
            pg_catalog.has_table_privilege(c.oid, 'SELECT') AND ($1 OR c.relname = 'schema_version'
              OR pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
              AND pg_catalog.has_table_privilege(c.oid, 'DELETE')))))";
    let Some(row) = session.maybe(sql, &[&(how == Use::Read)]).await? else { return Ok(()) };
    let (owner, role): (String, String) = (row.get(0), row.get(1));
    let (owner, role) = (quote_ident(&owner), quote_ident(&role));
    Err(Error::new(
        Kind::Refused,
        format!(
            "schema pgwraith, where the state of migrations is kept, belongs to {owner}, and {role} may not use it"
        ),
    )
    .state("Nothing was changed")
    .next(match how {
        Use::Read => format!(
            "GRANT {owner} TO {role}, or connect as {owner}. Who only looks needs less: view pgwraith.status shows it to \
             members of pg_monitor, and `pgwraith status` to whoever may SELECT from all tables of schema pgwraith"
        ),
        Use::Write => format!("GRANT {owner} TO {role}, or connect as {owner}"),
    }))
}
