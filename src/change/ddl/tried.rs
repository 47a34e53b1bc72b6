//! The file's statements, run one by one; and a look at what they took hold of.

use super::script::Statement;
use crate::change::clone::about_the_change;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session};

/// Runs them as they would run for the operator: under his own search path. Each for itself, by the extended
/// protocol: PostgreSQL takes no second statement there, and what is in a transaction cannot end it.
pub(super) async fn run(
    session: &Session,
    shadow: &QualifiedName,
    statements: &[Statement],
) -> Result<()> {
    let before = held(session, shadow).await?;
    session.batch("RESET search_path; SET LOCAL row_security = on").await?;
    for statement in statements {
        let done = session.execute(&statement.sql, &[]).await;
        done.map_err(|e| not_possible(statement, e, shadow))?;
        let now = held(session, shadow).await?;
        let is_new = |lock: &&Held| !before.iter().any(|was| was.what == lock.what);
        if let Some(Held { name, .. }) = now.iter().find(is_new) {
            return Err(
                statement.refused(&format!("it is about {name} too, which is not the new table"))
            );
        }
    }
    session.batch("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off").await
}

fn not_possible(statement: &Statement, e: Error, shadow: &QualifiedName) -> Error {
    let Some(db) = e.db().filter(|_| about_the_change(&e)) else { return e };
    let line = match db.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => statement.line_at(*at),
        _ => statement.line_at(1),
    };
    // As it will be called.
    let scratch = [format!("\"{}\".", shadow.schema), format!("{}.", shadow.schema)];
    let what = scratch.iter().fold(e.what().to_owned(), |what, schema| what.replace(schema, ""));
    Error::usage(format!("--shadow-ddl, line {line}: {what}"))
        .state("Nothing was touched")
        .next("Correct the file and start again")
        .source(e)
}

/// A lock on a relation.
struct Held {
    /// Its object id, and the mode. How its name is printed depends on the search path.
    what: (u32, String),
    name: String,
}

/// What the transaction has more than read, outside of the clone's schema and the catalogs.
async fn held(session: &Session, shadow: &QualifiedName) -> Result<Vec<Held>> {
    let sql = "SELECT c.oid, l.mode, pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_locks l
      JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
        AND l.mode <> 'AccessShareLock' AND n.nspname NOT IN ('pg_catalog', 'pg_toast', $1) ORDER BY 3";
    let rows = session.query(sql, &[&shadow.schema]).await?;
    let held =
        |row: &tokio_postgres::Row| Held { what: (row.get(0), row.get(1)), name: row.get(2) };
    Ok(rows.iter().map(held).collect())
}
