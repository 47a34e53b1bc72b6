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
    /// CREATE INDEX CONCURRENTLY. None where only ADD CONSTRAINT makes it, which has no such form: the
    /// index of an exclusion constraint is built plainly, however large it is.
    pub create_concurrently: Option<String>,
    /// Makes it a constraint, where it is one.
    pub attach: Option<String>,
    /// Rows may clash in it.
    pub unique: bool,
    /// As it is to be. Its tablespace is set as `default_tablespace` while it is built.
    pub index: Index,
    /// The constraint it is to be.
    pub constraint: Option<Constraint>,
}

/// What a table already has of a planned index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    Nothing,
    /// An index of that name that is not the planned one, or an invalid one; and what drops it.
    Unfit(String),
    /// The index, which is not a constraint yet.
    Index,
    /// All of it.
    Whole,
}

impl IndexPlan {
    /// What `table`, on which it is to be built, already has of it.
    pub fn present(&self, table: &Table) -> Present {
        let Some(found) = table.indexes.iter().find(|index| index.name == self.temporary) else {
            return Present::Nothing;
        };
        let constraint = table.constraint_of(found);
        let fits = found.valid && is_like(found, &self.index);
        match (&self.constraint, constraint) {
            (None, None) if fits => Present::Whole,
            (Some(wanted), Some(is)) if fits && is_constraint_like(is, wanted) => Present::Whole,
            (Some(_), None) if fits && self.attach.is_some() => Present::Index,
            _ => Present::Unfit(drop_index(table, found, constraint)),
        }
    }
}

/// The same but for its name, and for what can be set on an index that is there already.
fn is_like(index: &Index, wanted: &Index) -> bool {
    index.definition == wanted.definition
        && index.unique == wanted.unique
        && index.exclusion == wanted.exclusion
        && index.tablespace == wanted.tablespace
}

fn is_constraint_like(constraint: &Constraint, wanted: &Constraint) -> bool {
    constraint.kind == wanted.kind
        && constraint.definition == wanted.definition
        && constraint.deferrable == wanted.deferrable
        && constraint.deferred == wanted.deferred
}

/// The index of a constraint goes only with it.
fn drop_index(table: &Table, index: &Index, constraint: Option<&Constraint>) -> String {
    let name = table.qualified();
    match constraint {
        Some(c) => format!("ALTER TABLE {name} DROP CONSTRAINT {}", quote_ident(&c.name)),
        None => format!("DROP INDEX {}", name.sibling(&index.name)),
    }
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
            let (create, create_concurrently, attach) = match exclusion(target, index) {
                Some(c) => {
                    let add =
                        format!("ALTER TABLE {table} ADD CONSTRAINT {quoted} {}", c.definition);
                    (add, None, None)
                }
                None => (
                    create(index, "INDEX", table, &quoted),
                    Some(create(index, "INDEX CONCURRENTLY", table, &quoted)),
                    attach(target, index, table, &quoted),
                ),
            };
            IndexPlan {
                name: index.name.clone(),
                create,
                create_concurrently,
                attach,
                unique: index.unique || index.exclusion,
                index: index.clone(),
                constraint: target.constraint_of(index).cloned(),
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

fn create(index: &Index, what: &str, table: &QualifiedName, quoted: &str) -> String {
    let unique = if index.unique { "UNIQUE " } else { "" };
    format!("CREATE {unique}{what} {quoted} ON {table} {}", index.definition)
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

/// The index of `target` by which rows are found by these columns, in this order: the unique one on exactly
/// them, or one that begins with them.
pub fn lookup_index<'a>(target: &'a Table, columns: &[&str]) -> Option<&'a Index> {
    let wanted: Option<Vec<i16>> =
        columns.iter().map(|name| target.column_named(name).map(|c| c.attnum)).collect();
    let wanted = wanted?;
    // Ranges are looked up by it too, in the order of the key.
    let begins = |index: &&Index| {
        index.attnums.starts_with(&wanted)
            && index.definition.starts_with("USING btree ")
            && !index.definition.contains(" DESC")
            && index.valid
            && !index.partial
            && index.plain_key
    };
    key_index(target, columns).or_else(|| target.indexes.iter().find(begins))
}

/// Whether rows with different keys never clash in it: it has all of the key's columns.
pub fn contains_key(target: &Table, index: &Index, columns: &[&str]) -> bool {
    !index.exclusion
        && index.plain_key
        && columns.iter().all(|name| {
            target.column_named(name).is_some_and(|c| index.attnums.contains(&c.attnum))
        })
}

/// Whether `table` already has the replica identity that [`replica_identity`] would give it.
pub fn has_replica_identity(
    target: &Table,
    table: &Table,
    mut rename: impl FnMut(&str) -> String,
) -> bool {
    let by = |of: &Table| of.indexes.iter().find(|i| i.replica_identity).map(|i| i.name.clone());
    table.replica_identity == target.replica_identity
        && (target.replica_identity != 'i' || by(table) == by(target).map(|name| rename(&name)))
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
