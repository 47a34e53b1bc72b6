//! The table has a key by which the stream names its rows: the index of its replica identity.

use super::{Finding, Result, Subject};
use crate::catalog::{Index, Table};
use crate::pg::name::derived_name;
use crate::pg::quote_ident;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    Ok(match table.key() {
        Err(why) => vec![Finding::refuse(
            format!("{} has no key by which its rows can be followed: {why}", table.qualified()),
            mend(table),
        )],
        Ok(_) if table.replica_identity == 'f' && forbids_updates(subject) => {
            vec![whole_rows_with_generated(table)]
        }
        Ok(_) if table.replica_identity == 'f' => vec![Finding::note(
            format!(
                "{} has REPLICA IDENTITY FULL, so the stream carries whole rows",
                table.qualified()
            ),
            format!(
                "Expect more work for the server; ALTER TABLE {} REPLICA IDENTITY DEFAULT saves it, \
                 if no subscriber needs the old rows",
                table.qualified()
            ),
        )],
        Ok(_) => vec![],
    })
}

/// From 18 on, the server refuses to update or delete rows of a published table whose replica
/// identity has a generated column that is not published: the application's own writes would fail.
/// Our publication has none of them (virtual ones it could not have).
fn forbids_updates(subject: &Subject<'_>) -> bool {
    subject.session.version() >= 180_000 && generated(subject.table).next().is_some()
}

fn generated(table: &Table) -> impl Iterator<Item = String> {
    table.columns.iter().filter(|c| !c.generated.is_empty()).map(|c| quote_ident(&c.name))
}

fn whole_rows_with_generated(table: &Table) -> Finding {
    let name = table.qualified();
    let columns = generated(table).collect::<Vec<_>>().join(", ");
    Finding::refuse(
        format!(
            "{name} has REPLICA IDENTITY FULL and the generated columns {columns}, with which \
             PostgreSQL refuses updates while the table is published"
        ),
        format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
    )
}

/// The cheapest statement that gives the table a key: what is there already first.
fn mend(table: &Table) -> String {
    let name = table.qualified();
    if with_identity(table, 'd', None).key().is_ok() {
        return format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT");
    }
    if let Some(index) = table.indexes.iter().find(|i| would_do(table, i)) {
        return format!(
            "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {}",
            quote_ident(&index.name)
        );
    }
    if let Some((index, columns)) = nullable_columns(table) {
        let not_null: Vec<String> = columns
            .iter()
            .map(|c| format!("ALTER COLUMN {} SET NOT NULL", quote_ident(c)))
            .collect();
        return format!(
            "ALTER TABLE {name} {}; ALTER TABLE {name} REPLICA IDENTITY USING INDEX {}",
            not_null.join(", "),
            quote_ident(&index.name)
        );
    }
    if let Some(columns) = deferrable_columns(table) {
        let index = quote_ident(&derived_name(&table.name, "_identity"));
        return format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {name} ({columns}); \
             ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"
        );
    }
    if table.indexes.iter().any(|i| i.primary) {
        let index = quote_ident(&derived_name(&table.name, "_identity"));
        return format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {name} (other columns that tell its rows apart); \
             ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"
        );
    }
    format!("ALTER TABLE {name} ADD PRIMARY KEY (the columns that tell its rows apart)")
}

/// The table with another replica identity, to ask the model what it would say.
fn with_identity(table: &Table, identity: char, by: Option<&Index>) -> Table {
    let mut table = Table { replica_identity: identity, ..table.clone() };
    for index in &mut table.indexes {
        index.replica_identity = by.is_some_and(|by| by.oid == index.oid);
    }
    table
}

fn would_do(table: &Table, index: &Index) -> bool {
    with_identity(table, 'i', Some(index)).key().is_ok()
}

/// A unique index that would do if some columns were NOT NULL, and these.
fn nullable_columns(table: &Table) -> Option<(&Index, Vec<String>)> {
    let mut strict = table.clone();
    strict.columns.iter_mut().for_each(|c| c.not_null = true);
    let index = table.indexes.iter().find(|i| would_do(&strict, i))?;
    let columns = index.attnums.iter().filter_map(|&n| table.column(n));
    Some((index, columns.filter(|c| !c.not_null).map(|c| c.name.clone()).collect()))
}

/// The columns of a deferrable key that only lacks being checked at once, as SQL.
fn deferrable_columns(table: &Table) -> Option<String> {
    let mut prompt = table.clone();
    prompt.indexes.iter_mut().for_each(|i| i.immediate = true);
    let index = table.indexes.iter().find(|i| would_do(&prompt, i))?;
    let columns = index.attnums.iter().filter_map(|&n| table.column(n));
    Some(columns.map(|c| quote_ident(&c.name)).collect::<Vec<_>>().join(", "))
}
