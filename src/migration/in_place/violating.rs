//! Which rows do not fulfil what is asked of them.

use super::work::Steps;
use crate::catalog::{self, Constraint, Table};
use crate::change::own_key;
use crate::error::{Error, Kind, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Lossy, QualifiedName, Session, quote_ident};

/// They are looked for no longer than this, where some are known by then, and no longer than that where none is.
const FOR_SOME: &str = "60s";
const FOR_ONE: &str = "10min";

/// A constraint of the table is violated by some rows.
pub(super) async fn told(steps: &Steps<'_, '_, '_>, table: u32, name: &str, error: Error) -> Error {
    let sample = sample(steps, table, name).await;
    Error::new(
        Kind::DataDiffers,
        format!("rows violate constraint {name:?}{sample}. {}", error.what()),
    )
    .next("Correct or remove the rows. From now on none can be added to them")
    .source(error)
}

/// A row cannot be filled, since it violates a constraint that is older than the column's values, or younger than the row.
pub(super) async fn refused(steps: &Steps<'_, '_, '_>, error: Error) -> Error {
    let Some(name) = constraint_of(steps, &error).await else { return error };
    let sample = sample(steps, steps.source.oid, &name).await;
    Error::new(
        Kind::DataDiffers,
        format!(
            "a row that violates constraint {name:?} cannot be filled{sample}. {}",
            error.what()
        ),
    )
    .next("Correct or remove such rows, or drop the constraint until the column is filled")
    .source(error)
}

/// The constraint that a row violates, where it can be found out.
pub(super) async fn constraint_of(steps: &Steps<'_, '_, '_>, error: &Error) -> Option<String> {
    look_for_constraint(steps, error).await.unwrap_or_else(|e| {
        tracing::debug!("looking for the constraint that refuses a row: {e}");
        None
    })
}

/// Its name, as PostgreSQL says it; of a column that has to have a value it says only that.
async fn look_for_constraint(steps: &Steps<'_, '_, '_>, error: &Error) -> Result<Option<String>> {
    let Some(db) = error.db() else { return Ok(None) };
    if let Some(name) = db.constraint() {
        return Ok(Some(name.to_owned()));
    }
    let Some(column) = db.column() else { return Ok(None) };
    let table = now(steps.control, steps.source.oid).await?;
    let Some(column) = table.column_named(column) else { return Ok(None) };
    let is_it = |c: &&Constraint| c.kind == 'n' && c.attnums == [column.attnum];
    Ok(table.constraints.iter().find(is_it).map(|c| c.name.clone()))
}

/// Rows have the same values where an index is to be unique.
pub(super) async fn duplicates(
    steps: &Steps<'_, '_, '_>,
    table: u32,
    name: &str,
    error: Error,
) -> Error {
    let sample = alike(steps, table, name).await.unwrap_or_else(|e| {
        tracing::debug!("looking for rows that are alike by {name}: {e}");
        Vec::new()
    });
    let (sample, detail) = (named(&sample), error.db().and_then(|db| db.detail()).unwrap_or(""));
    Error::new(
        Kind::DataDiffers,
        format!("the data violates the unique index or constraint {name:?}{sample}. {detail}"),
    )
    .next("Remove the duplicates")
    .source(error)
}

fn named(rows: &[String]) -> String {
    match rows {
        [] => String::new(),
        rows => format!(", for instance the rows with {}", rows.join("; ")),
    }
}

async fn sample(steps: &Steps<'_, '_, '_>, table: u32, name: &str) -> String {
    let rows = rows(steps, table, name).await.unwrap_or_else(|e| {
        tracing::debug!("looking for rows that violate {name}: {e}");
        Vec::new()
    });
    named(&rows)
}

async fn rows(steps: &Steps<'_, '_, '_>, table: u32, name: &str) -> Result<Vec<String>> {
    let session = steps.context.session("violating").await?;
    let table = now(&session, table).await?;
    let Some(condition) = condition(&session, table.oid, name).await? else { return Ok(vec![]) };
    let from = format!("{} AS s WHERE {condition}", table.scanned());
    look(&session, steps, &key(&table), &from).await
}

async fn alike(steps: &Steps<'_, '_, '_>, table: u32, name: &str) -> Result<Vec<String>> {
    let session = steps.context.session("violating").await?;
    let Some(table) = catalog::read(&session, table).await? else { return Ok(vec![]) };
    // What failed has left it.
    let index = table.indexes.iter().find(|index| index.name == name);
    let Some(index) = index.filter(|index| !index.partial) else { return Ok(vec![]) };
    let numbered = || index.expressions.iter().enumerate();
    let values: Vec<String> = numbered().map(|(n, e)| format!("{e} AS pgwraith_{n}")).collect();
    let same: Vec<String> =
        numbered().map(|(n, e)| format!("({e}) IS NOT DISTINCT FROM d.pgwraith_{n}")).collect();
    let some = index.expressions.iter().map(|e| format!("({e}) IS NOT NULL"));
    let name = table.qualified();
    let from = format!(
        "ONLY {name} AS s JOIN (SELECT {} FROM ONLY {name} WHERE {} GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1) d ON {}",
        values.join(", "),
        some.collect::<Vec<_>>().join(" AND "),
        index.expressions.join(", "),
        same.join(" AND ")
    );
    look(&session, steps, &key(&table), &from).await
}

async fn now(session: &Session, table: u32) -> Result<Table> {
    let now = catalog::read(session, table).await?;
    now.ok_or_else(|| Error::failed("the table is gone"))
}

/// What names a row of `s`.
fn key(table: &Table) -> String {
    let columns: Vec<String> = match own_key(table) {
        Ok(key) => key.into_iter().map(|column| column.source).collect(),
        Err(_) => vec!["ctid".to_owned()],
    };
    let named = columns.iter().map(|column| {
        let told = crate::pg::quote_literal(&format!("{column} = "));
        format!("{told} || s.{}::pg_catalog.text", quote_ident(column))
    });
    format!("pg_catalog.concat_ws(', ', {})", named.collect::<Vec<_>>().join(", "))
}

async fn look(
    session: &Session,
    steps: &Steps<'_, '_, '_>,
    key: &str,
    from: &str,
) -> Result<Vec<String>> {
    session.set_role(&steps.context.writer.owner).await?;
    for (limit, rows) in [(FOR_SOME, 5), (FOR_ONE, 1)] {
        session.set("statement_timeout", limit).await?;
        let found = session.query(&format!("SELECT {key} FROM {from} LIMIT {rows}"), &[]).await;
        match found {
            Ok(rows) => return Ok(rows.iter().map(|row| row.get::<_, Lossy>(0).0).collect()),
            Err(e) if classify(&e) == Class::Late => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Vec::new())
}

/// True for a row of `s` that violates it; None where nobody here can say.
async fn condition(session: &Session, table: u32, name: &str) -> Result<Option<String>> {
    let sql = "SELECT k.contype::pg_catalog.text, pg_catalog.pg_get_expr(k.conbin, k.conrelid), \
                 n.nspname::pg_catalog.text, r.relname::pg_catalog.text, k.confmatchtype = 'f', \
                 ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS c (number, place) \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.number ORDER BY c.place), \
                 ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS c (number, place) \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.number ORDER BY c.place), \
                 ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', x.nspname, o.oprname) \
                   FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY AS c (number, place) \
                   JOIN pg_catalog.pg_operator o ON o.oid = c.number JOIN pg_catalog.pg_namespace x ON x.oid = o.oprnamespace \
                   ORDER BY c.place) \
               FROM pg_catalog.pg_constraint k LEFT JOIN pg_catalog.pg_class r ON r.oid = k.confrelid \
               LEFT JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace \
               WHERE k.conrelid = $1 AND k.conname = $2";
    let Some(row) = session.maybe(sql, &[&table, &name]).await? else { return Ok(None) };
    let columns: Vec<String> = row.get(5);
    let columns: Vec<String> = columns.iter().map(|c| format!("s.{}", quote_ident(c))).collect();
    Ok(match row.get::<_, &str>(0) {
        "c" => row.get::<_, Option<&str>>(1).map(|check| format!("({check}) IS FALSE")),
        "n" => columns.first().map(|column| format!("{column} IS NULL")),
        "f" => {
            let parent = QualifiedName::new(row.get::<_, &str>(2), row.get::<_, &str>(3));
            let (theirs, operators): (Vec<String>, Vec<String>) = (row.get(6), row.get(7));
            let same = columns.iter().zip(theirs.iter().zip(&operators)).map(
                |(ours, (theirs, operator))| format!("p.{} {operator} {ours}", quote_ident(theirs)),
            );
            let same: Vec<String> = same.collect();
            let there: Vec<String> = columns.iter().map(|c| format!("{c} IS NOT NULL")).collect();
            // MATCH FULL wants all of them, or none.
            let joined = there.join(if row.get(4) { " OR " } else { " AND " });
            Some(format!(
                "({joined}) AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {})",
                same.join(" AND ")
            ))
        }
        _ => None,
    })
}
