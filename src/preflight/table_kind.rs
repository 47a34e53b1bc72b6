//! The table is an ordinary or partitioned, permanent table of the user's own, in heaps.

use super::{Finding, Result, Subject};
use crate::catalog::Table;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    Ok([schema(table), kind(table), persistence(table), partition(table), access_method(table)]
        .into_iter()
        .flatten()
        .collect())
}

/// What is altered in place may be unlogged, and stored in whatever way; but an ALTER TABLE of a table that
/// inherits, or is inherited from, is about others too. Partitions are the table's own.
pub(super) async fn in_place(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    let persistence = persistence(table).filter(|_| table.persistence == 't');
    let mut found: Vec<Finding> =
        [schema(table), kind(table), persistence, partition(table)].into_iter().flatten().collect();
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent \
               WHERE i.inhrelid = $1 OR i.inhparent = $1 AND p.relkind <> 'p')";
    if found.is_empty() && subject.session.one(sql, &[&table.oid]).await?.get(0) {
        found.push(Finding::refuse(
            format!("{} inherits from a table, or is inherited from", table.qualified()),
            "Look at what the ALTER TABLE does to those",
        ));
    }
    Ok(found)
}

fn schema(table: &Table) -> Option<Finding> {
    let schema = table.schema.as_str();
    let system = ["pg_catalog", "information_schema", "pg_toast", "pgwraith"].contains(&schema);
    system.then(|| {
        Finding::refuse(
            format!("schema {schema:?} belongs to PostgreSQL or to pgwraith itself"),
            "Name a table of your own",
        )
    })
}

fn kind(table: &Table) -> Option<Finding> {
    let (kind, mend) = match table.kind {
        'r' | 'p' => return None,
        'f' => ("a foreign table", "Run pgwraith on the server that holds its rows"),
        'v' => ("a view", "Name the table underneath"),
        'm' => (
            "a materialized view",
            "Make it anew under another name and rename the two; it takes no writes",
        ),
        'S' => ("a sequence", "Name the table that uses it"),
        'i' | 'I' => ("an index", "Name the table that it belongs to"),
        'c' => ("a composite type", "Name a table"),
        't' => ("a TOAST table", "Name the table that it belongs to"),
        _ => ("of a kind that this version does not know", "Name an ordinary table"),
    };
    Some(Finding::refuse(format!("{} is {kind}", table.qualified()), mend))
}

fn persistence(table: &Table) -> Option<Finding> {
    let name = table.qualified();
    match table.persistence {
        'p' => None,
        't' => Some(Finding::refuse(
            format!("{name} is a temporary table, which only its own session can read"),
            "Name a permanent table",
        )),
        _ => Some(Finding::refuse(
            format!(
                "{name} is unlogged: its changes are not in the WAL, so they cannot be followed"
            ),
            format!("ALTER TABLE {name} SET LOGGED (rewrites the table under an exclusive lock)"),
        )),
    }
}

fn partition(table: &Table) -> Option<Finding> {
    table.is_partition.then(|| {
        Finding::refuse(
            format!("{} is a partition of another table", table.qualified()),
            "Wait for a version that migrates partitions; or detach it (ALTER TABLE … DETACH \
             PARTITION … CONCURRENTLY), migrate it, and attach it again",
        )
    })
}

/// A partitioned table, a view and the like have none.
fn access_method(table: &Table) -> Option<Finding> {
    let method =
        table.access_method.as_deref().filter(|am| *am != "heap" && "rm".contains(table.kind))?;
    Some(Finding::refuse(
        format!(
            "{} is stored by access method {method:?}, which pgwraith does not know",
            table.qualified()
        ),
        format!(
            "ALTER TABLE {} SET ACCESS METHOD heap (rewrites the table under an exclusive lock)",
            table.qualified()
        ),
    ))
}
