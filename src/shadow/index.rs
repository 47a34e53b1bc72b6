//! The shadow's indexes: which, under which names, in which order.

use crate::catalog::{Constraint, Index, Table};
use crate::pg::{QualifiedName, quote_ident};

/// One index to build.
#[derive(Debug, Clone)]
pub struct IndexPlan {
    /// Its name after the swap.
    pub name: String,
    /// Its name until then.
    pub temporary: String,
    /// CREATE INDEX, or ADD CONSTRAINT where only that makes it.
    pub create: String,
    /// Makes it a constraint, where it is one.
    pub attach: Option<String>,
    /// None is the database's default; set as `default_tablespace` while it is built.
    pub tablespace: Option<String>,
    /// Rows may clash in it.
    pub unique: bool,
    /// Its key columns as SQL, for naming rows that violate it.
    pub expressions: Vec<String>,
}

/// A plan for every index of `target`, to be built on `table` under the name `rename` gives.
pub fn index_plans(
    target: &Table,
    table: &QualifiedName,
    mut rename: impl FnMut(&str) -> String,
) -> Vec<IndexPlan> {
    target
        .indexes
        .iter()
        .map(|index| {
            let temporary = rename(&index.name);
            let quoted = quote_ident(&temporary);
            let (create, attach) = match exclusion(target, index) {
                Some(c) => {
                    (format!("ALTER TABLE {table} ADD CONSTRAINT {quoted} {}", c.definition), None)
                }
                None => (create(index, table, &quoted), attach(target, index, table, &quoted)),
            };
            IndexPlan {
                name: index.name.clone(),
                create,
                attach,
                tablespace: index.tablespace.clone(),
                unique: index.unique || index.exclusion,
                expressions: index.expressions.clone(),
                temporary,
            }
        })
        .collect()
}

/// The constraint that such an index is part of: EXCLUDE, or WITHOUT OVERLAPS. There is no USING INDEX
/// for those.
fn exclusion<'a>(target: &'a Table, index: &Index) -> Option<&'a Constraint> {
    target.constraint_of(index).filter(|c| index.exclusion || c.temporal)
}

fn create(index: &Index, table: &QualifiedName, quoted: &str) -> String {
    let unique = if index.unique { "UNIQUE " } else { "" };
    format!("CREATE {unique}INDEX {quoted} ON {table} {}", index.definition)
}

fn attach(target: &Table, index: &Index, table: &QualifiedName, quoted: &str) -> Option<String> {
    let constraint = target.constraint_of(index)?;
    let kind = match constraint.kind {
        'p' => "PRIMARY KEY",
        'u' => "UNIQUE",
        _ => return None,
    };
    let deferrable = match (constraint.deferrable, constraint.deferred) {
        (false, _) => "",
        (true, false) => " DEFERRABLE",
        (true, true) => " DEFERRABLE INITIALLY DEFERRED",
    };
    Some(format!(
        "ALTER TABLE {table} ADD CONSTRAINT {quoted} {kind} USING INDEX {quoted}{deferrable}"
    ))
}

/// The unique index of `target` on exactly these columns, on which rows can be looked up and written.
pub fn key_index<'a>(target: &'a Table, columns: &[&str]) -> Option<&'a Index> {
    let mut wanted: Vec<i16> = columns
        .iter()
        .map(|name| target.column_named(name).map(|c| c.attnum))
        .collect::<Option<_>>()?;
    wanted.sort_unstable();
    let fits = |index: &&Index| {
        let mut has = index.attnums.clone();
        has.sort_unstable();
        has == wanted
    };
    let usable = |i: &&Index| {
        i.unique && !i.exclusion && i.immediate && i.valid && !i.partial && i.plain_key
    };
    target.indexes.iter().filter(usable).find(fits)
}

/// Gives `table` the replica identity of `target`, where it is not the default.
pub fn replica_identity(
    target: &Table,
    table: &QualifiedName,
    mut rename: impl FnMut(&str) -> String,
) -> Option<String> {
    match target.replica_identity {
        'f' => Some(format!("ALTER TABLE {table} REPLICA IDENTITY FULL")),
        'n' => Some(format!("ALTER TABLE {table} REPLICA IDENTITY NOTHING")),
        'i' => target.indexes.iter().find(|i| i.replica_identity).map(|i| {
            let name = quote_ident(&rename(&i.name));
            format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}")
        }),
        _ => None,
    }
}
