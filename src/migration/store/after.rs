//! What was to be done after the swap.

use crate::error::Result;
use crate::pg::Session;
use crate::shadow::Step;

/// A step that is left, and whether a foreign key is proven by it.
pub(in crate::migration) struct ToDo {
    pub step: Step,
    pub validates: bool,
}

/// The steps that were to be run after the swap and were not, as far as anybody can tell: by hand is as
/// good, and a run may have died before it could say that it was done.
pub(in crate::migration) async fn left_to_do(
    session: &Session,
    migration: i64,
) -> Result<Vec<ToDo>> {
    // Written as where they are made.
    let sql = "
      SELECT e.detail, pg_catalog.to_jsonb(e)->>'role' FROM pgwraith.event e WHERE e.migration_id = $1 AND e.what = 'to do'
        AND NOT EXISTS (SELECT 1 FROM pgwraith.event d WHERE d.migration_id = $1
          AND d.what = 'done' AND d.detail = e.detail AND d.id > e.id)
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE k.convalidated AND e.detail = pg_catalog.format(
            'ALTER TABLE \"%s\".\"%s\" VALIDATE CONSTRAINT \"%s\"',
            pg_catalog.replace(n.nspname::pg_catalog.text, '\"', '\"\"'),
            pg_catalog.replace(c.relname::pg_catalog.text, '\"', '\"\"'),
            pg_catalog.replace(k.conname::pg_catalog.text, '\"', '\"\"')))
      ORDER BY e.id";
    let rows = session.query(sql, &[&migration]).await?;
    let to_do = |row: &tokio_postgres::Row| {
        let sql: String = row.get(0);
        let validates = sql.contains(" VALIDATE CONSTRAINT ");
        ToDo { step: Step { role: row.get(1), sql }, validates }
    };
    Ok(rows.iter().map(to_do).collect())
}

/// The same as text.
pub(in crate::migration) async fn left_to_validate(
    session: &Session,
    migration: i64,
) -> Result<Vec<String>> {
    let left = left_to_do(session, migration).await?;
    Ok(left.into_iter().map(|to_do| to_do.step.sql).collect())
}
