//! No other migration of this table is under way, and the state schema is ours to use.

use super::{Finding, Result, Subject};
use crate::pg::{quote_ident, shell_word};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let Some(state) = state_schema(subject).await? else { return Ok(vec![]) };
    if !state.usable {
        return Ok(vec![not_ours(subject, &state)]);
    }
    if !state.has_migrations {
        return Ok(vec![]);
    }
    unfinished(subject).await
}

/// The schema pgwraith, where there is one.
struct StateSchema {
    owner: String,
    has_migrations: bool,
    usable: bool,
    role: String,
}

/// Looked up in the catalog: `to_regclass` fails where the schema may not be used.
async fn state_schema(subject: &Subject<'_>) -> Result<Option<StateSchema>> {
    let sql = "
      SELECT o.rolname::pg_catalog.text, m.oid IS NOT NULL,
        pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND CASE WHEN m.oid IS NULL
          THEN pg_catalog.has_schema_privilege(n.oid, 'CREATE')
          ELSE pg_catalog.has_table_privilege(m.oid, 'SELECT') AND pg_catalog.has_table_privilege(m.oid, 'INSERT')
            AND pg_catalog.has_table_privilege(m.oid, 'UPDATE') END,
        SESSION_USER::pg_catalog.text
      FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
      LEFT JOIN pg_catalog.pg_class m ON m.relnamespace = n.oid AND m.relname = 'migration'
      WHERE n.nspname = 'pgwraith'";
    let row = subject.session.maybe(sql, &[]).await?;
    Ok(row.map(|row| StateSchema {
        owner: row.get(0),
        has_migrations: row.get(1),
        usable: row.get(2),
        role: row.get(3),
    }))
}

fn not_ours(subject: &Subject<'_>, state: &StateSchema) -> Finding {
    let (owner, role) = (quote_ident(&state.owner), quote_ident(&state.role));
    Finding::refuse(
        format!(
            "schema pgwraith, where the state of migrations is kept, belongs to {owner}, and {role} may not use it"
        ),
        format!(
            "GRANT {owner} TO {role}, or connect as {owner} (other migrations in database {:?} may \
             be its own)",
            subject.connector.info().dbname
        ),
    )
}

/// Those of the table.
const UNFINISHED: &str = "m.finished_at IS NULL
  AND (m.source_oid::pg_catalog.oid = $1 OR m.source_schema = $2 AND m.source_name = $3)";

/// The tables that unfinished migrations of this one are making: theirs to keep or to drop.
pub(super) async fn shadows(subject: &Subject<'_>) -> Result<Vec<u32>> {
    let state = state_schema(subject).await?;
    if !state.is_some_and(|state| state.usable && state.has_migrations) {
        return Ok(vec![]);
    }
    // The state may be of an older version.
    let sql = format!(
        "SELECT c.oid FROM (SELECT m.*, pg_catalog.to_jsonb(m) AS stored FROM pgwraith.migration m) m
         JOIN pg_catalog.pg_namespace n ON n.nspname = m.source_schema
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = m.stored->>'shadow_name'
         WHERE {UNFINISHED} AND COALESCE((m.stored->>'shadow_oid')::pg_catalog.oid, c.oid) = c.oid"
    );
    let table = subject.table;
    let rows = subject.session.query(&sql, &[&table.oid, &table.schema, &table.name]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn unfinished(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let sql = format!(
        "SELECT m.id::pg_catalog.text, m.phase::pg_catalog.text FROM pgwraith.migration m
         WHERE {UNFINISHED} ORDER BY m.id"
    );
    let table = subject.table;
    let rows = subject.session.query(&sql, &[&table.oid, &table.schema, &table.name]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (id, phase): (&str, &str) = (row.get(0), row.get(1));
        let name = table.qualified();
        let word = shell_word(&name.to_string());
        if phase == "dry run" {
            return Finding::refuse(
                format!("a dry run of {name} is under way, or was cut off"),
                format!("pgwraith abort {word} ends it and removes what it made"),
            );
        }
        Finding::refuse(
            format!("migration {id} of {name} is not finished (phase {phase})"),
            format!("pgwraith resume {word} goes on with it, pgwraith abort {word} undoes it"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
