//! A table's name as the operator types it, for tables that may be gone.

use super::store::Stored;
use crate::catalog;
use crate::error::{Error, Result};
use crate::pg::Session;

/// What was typed, read as the server reads it.
pub(super) struct Said {
    typed: String,
    schema: Option<String>,
    pub(super) name: String,
    /// Where a name without a schema is looked for first.
    path: Vec<String>,
}

/// The name of the table with this oid or, where no table has it, of what was typed; None where that is no
/// table's name.
pub(super) async fn said(session: &Session, typed: &str, oid: Option<u32>) -> Result<Option<Said>> {
    if let Some(oid) = oid {
        let found = catalog::name_of(session, oid).await?;
        return Ok(found.map(|table| Said {
            typed: typed.to_owned(),
            schema: Some(table.schema),
            name: table.name,
            path: vec![],
        }));
    }
    session.batch("RESET search_path").await?;
    let sql = "SELECT pg_catalog.parse_ident($1)::pg_catalog.name[]::pg_catalog.text[], \
               pg_catalog.current_schemas(false)::pg_catalog.text[]";
    let found = session.maybe(sql, &[&typed]).await;
    session.batch("SET search_path = pg_catalog, pg_temp").await?;
    let (mut parts, path): (Vec<String>, Vec<String>) = match found {
        Ok(Some(row)) => (row.get(0), row.get(1)),
        Ok(None) => return Ok(None),
        Err(e) if e.db().is_some() => return Ok(None),
        Err(e) => return Err(e),
    };
    let Some(name) = parts.pop() else { return Ok(None) };
    Ok(Some(Said { typed: typed.to_owned(), schema: parts.pop(), name, path }))
}

impl Said {
    /// Of migrations of tables of this name, those of the table that is meant.
    pub(super) fn those_meant(&self, mut found: Vec<Stored>) -> Result<Vec<Stored>> {
        let mut schemas: Vec<&str> = found.iter().map(|m| m.names.source.schema.as_str()).collect();
        schemas.sort_unstable();
        schemas.dedup();
        let on_path = self.path.iter().find(|schema| schemas.contains(&schema.as_str()));
        let schema = match (&self.schema, on_path, schemas.as_slice()) {
            (Some(schema), ..) | (None, Some(schema), _) => schema.clone(),
            (None, None, []) => return Ok(found),
            (None, None, [only]) => (*only).to_owned(),
            (None, None, several) => {
                let several = several.join(", ");
                return Err(Error::usage(format!(
                    "there were tables {} in the schemas {several}",
                    self.typed
                ))
                .next("Say which, with its schema"));
            }
        };
        found.retain(|m| m.names.source.schema == schema);
        Ok(found)
    }
}
