//! What was to be done after the swap.

use crate::error::Result;
use crate::pg::Session;
use crate::shadow::Step;

/// A step that is left.
pub(in crate::migration) struct ToDo {
    pub step: Step,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::migration) enum What {
    /// Gives a partition its name.
    Names,
    /// Proves a foreign key.
    Proves,
    /// Makes one key of those of partitions.
    Unites,
    Other,
}

impl What {
    fn of(sql: &str) -> What {
        match () {
            () if sql.starts_with("DO ") => What::Names,
            () if sql.contains(" VALIDATE CONSTRAINT ") => What::Proves,
            () if sql.contains(" ADD CONSTRAINT ") => What::Unites,
            () => What::Other,
        }
    }
}

const RELATIONS: &str =
    "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";

/// Names are written as where the steps are made: always quoted.
fn quoted(column: &str) -> String {
    format!("'\"' || pg_catalog.replace({column}::pg_catalog.text, '\"', '\"\"') || '\"'")
}

/// The steps that were to be run after the swap and were not, as far as anybody can tell: by hand is as
/// good, and a run may have died before it could say that it was done. What names a table, sequence or
/// constraint that is gone is done with: it can only fail.
pub(in crate::migration) async fn left_to_do(
    session: &Session,
    migration: i64,
) -> Result<Vec<ToDo>> {
    let (schema, relation) = (quoted("n.nspname"), quoted("c.relname"));
    let constraint = quoted("k.conname");
    let owned =
        format!("' OWNED BY ' || {schema} || '.' || {relation} || '.' || {}", quoted("a.attname"));
    let relations = RELATIONS;
    let sql = format!(
        "SELECT e.detail, pg_catalog.to_jsonb(e)->>'role' FROM pgwraith.event e
         WHERE e.migration_id = $1 AND e.what = 'to do'
         AND NOT EXISTS (SELECT 1 FROM pgwraith.event d WHERE d.migration_id = $1
           AND d.what = 'done' AND d.detail = e.detail AND d.id > e.id)
         AND CASE
           WHEN pg_catalog.strpos(e.detail, ' VALIDATE CONSTRAINT ') > 0 THEN EXISTS (
             SELECT 1 FROM pg_catalog.pg_constraint k JOIN {relations} ON c.oid = k.conrelid
             WHERE NOT k.convalidated AND e.detail =
               'ALTER TABLE ' || {schema} || '.' || {relation} || ' VALIDATE CONSTRAINT ' || {constraint})
           WHEN pg_catalog.starts_with(e.detail, 'ALTER SEQUENCE ') THEN EXISTS (
             SELECT 1 FROM {relations} WHERE c.relkind = 'S' AND pg_catalog.starts_with(e.detail,
               'ALTER SEQUENCE ' || {schema} || '.' || {relation} || ' '))
             AND (pg_catalog.strpos(e.detail, ' OWNED BY ') = 0 OR EXISTS (
               SELECT 1 FROM {relations} JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
               WHERE NOT a.attisdropped
               AND pg_catalog.right(e.detail, pg_catalog.length({owned})) = {owned}))
           WHEN pg_catalog.strpos(e.detail, ' ADD CONSTRAINT ') > 0 THEN EXISTS (
             SELECT 1 FROM {relations} WHERE pg_catalog.starts_with(e.detail,
               'ALTER TABLE ' || {schema} || '.' || {relation} || ' ADD CONSTRAINT '))
             AND NOT EXISTS (
             SELECT 1 FROM pg_catalog.pg_constraint k JOIN {relations} ON c.oid = k.conrelid
             WHERE pg_catalog.starts_with(e.detail,
               'ALTER TABLE ' || {schema} || '.' || {relation} || ' ADD CONSTRAINT ' || {constraint} || ' '))
           ELSE true END
         ORDER BY e.id"
    );
    let rows = session.query(&sql, &[&migration]).await?;
    let to_do = |row: &tokio_postgres::Row| {
        let sql: String = row.get(0);
        let what = What::of(&sql);
        ToDo { step: Step { role: row.get(1), sql }, what }
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

/// What would prove the keys of partitions that `sql` is to unite and are not proven: before 18 PostgreSQL does not take
/// over such a one, but makes a second and reads all rows under a lock that keeps writers out.
pub(in crate::migration) async fn still_to_prove(
    session: &Session,
    sql: &str,
) -> Result<Vec<String>> {
    let (schema, relation) = (quoted("n.nspname"), quoted("c.relname"));
    let (root_schema, root) = (quoted("rn.nspname"), quoted("r.relname"));
    let constraint = quoted("k.conname");
    let query = format!(
        "SELECT 'ALTER TABLE ' || {schema} || '.' || {relation} || ' VALIDATE CONSTRAINT ' || {constraint}
         FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace,
           LATERAL pg_catalog.pg_partition_tree(r.oid) t,
           {RELATIONS} JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid
         WHERE r.relkind = 'p' AND c.oid = t.relid AND k.contype = 'f' AND NOT k.convalidated
           AND pg_catalog.starts_with($1, 'ALTER TABLE ' || {root_schema} || '.' || {root} || ' ADD CONSTRAINT ')
           AND pg_catalog.starts_with($1,
             'ALTER TABLE ' || {root_schema} || '.' || {root} || ' ADD CONSTRAINT ' || {constraint} || ' ')
         ORDER BY t.level, c.oid"
    );
    let rows = session.query(&query, &[&sql]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Nothing is left: what was not run has nothing to do any more, also if its names are given anew one day.
pub(in crate::migration) async fn all_done(session: &Session, migration: i64) -> Result<()> {
    let sql = "INSERT INTO pgwraith.event (migration_id, what, detail)
               SELECT e.migration_id, 'done', e.detail FROM pgwraith.event e
               WHERE e.migration_id = $1 AND e.what = 'to do' AND NOT EXISTS (
                 SELECT 1 FROM pgwraith.event d WHERE d.migration_id = $1 AND d.what = 'done'
                   AND d.detail = e.detail AND d.id > e.id)
               ORDER BY e.id";
    session.execute(sql, &[&migration]).await?;
    Ok(())
}
