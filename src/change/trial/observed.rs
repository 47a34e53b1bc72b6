//! What was seen of an ALTER TABLE.

use super::lock::Lock;
use crate::catalog::{Column, Constraint, ForeignKey, Index, Table};

/// What it did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Observed {
    /// The strongest lock on the table.
    pub lock: Lock,
    /// The table got a new file.
    pub rewritten: bool,
    /// How often all its rows were read, for whatever reason.
    pub scans: i64,
    /// Indexes that were built, by name.
    pub built: Vec<String>,
    /// Locks on other tables that their writers would notice.
    pub others: Vec<Other>,
    /// What rows must fulfil now.
    pub gains: Vec<Gain>,
    /// It has another name, schema or owner, or is gone.
    pub moved: bool,
    /// Columns that are gone, by their numbers on the source.
    pub dropped: Vec<i16>,
    /// Those that have another type or collation.
    pub retyped: Vec<i16>,
    /// Why it cannot be in place at all: of a partitioned table PostgreSQL refuses more, and not everything can be tried.
    #[serde(skip)]
    pub no_way: Option<String>,
    /// What it was then; None where it was gone.
    #[serde(skip)]
    pub becomes: Option<Table>,
}

/// Another table that it locks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Other {
    /// Quoted and qualified.
    pub table: String,
    #[serde(skip)]
    pub oid: u32,
    pub lock: Lock,
    /// Whether all its rows are read.
    pub scanned: bool,
}

/// What rows must fulfil since then.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Gain {
    NotNull {
        column: String,
    },
    /// A new column that is NOT NULL, and has no value for the rows that are there.
    NoValue {
        column: String,
        #[serde(rename = "type")]
        type_sql: String,
    },
    Check {
        name: String,
        definition: String,
    },
    ForeignKey {
        name: String,
        definition: String,
    },
    /// PRIMARY KEY or UNIQUE.
    Key {
        name: String,
        primary: bool,
        /// The columns of a primary key that may be NULL until then.
        nullable: Vec<String>,
        /// The name of the index, where it was there.
        index: Option<String>,
    },
    /// EXCLUDE, or WITHOUT OVERLAPS.
    Exclusion {
        name: String,
    },
}

/// What rows of `after` must fulfil and those of `before`, the same table, need not.
pub(super) fn gains(before: &Table, after: &Table) -> Vec<Gain> {
    let mut out: Vec<Gain> = after.columns.iter().filter_map(|c| not_null(before, c)).collect();
    // By name: a column's new type makes PostgreSQL put what is about the column on again.
    let known = |c: &&Constraint| {
        before.constraints.iter().any(|was| (&was.name, was.validated) == (&c.name, c.validated))
    };
    for constraint in after.constraints.iter().filter(|c| !known(c)) {
        out.extend(constraint_gain(before, after, constraint));
    }
    let proven = |key: &&ForeignKey| {
        before.foreign_keys.iter().any(|was| was.name == key.name && was.from == key.from)
    };
    out.extend(after.foreign_keys.iter().filter(|k| k.validated && !proven(k)).map(|key| {
        Gain::ForeignKey { name: key.name.clone(), definition: key.definition.clone() }
    }));
    out
}

fn not_null(before: &Table, column: &Column) -> Option<Gain> {
    let name = column.name.clone();
    match before.column(column.attnum) {
        _ if !column.not_null => None,
        Some(was) if was.not_null => None,
        Some(_) => Some(Gain::NotNull { column: name }),
        None if column.default.is_some() || !column.identity.is_empty() => None,
        None => Some(Gain::NoValue { column: name, type_sql: column.type_sql.clone() }),
    }
}

fn constraint_gain(before: &Table, after: &Table, constraint: &Constraint) -> Option<Gain> {
    let name = constraint.name.clone();
    let index = after.indexes.iter().find(|i| i.oid == constraint.index_oid);
    match (constraint.kind, index) {
        ('c', _) if constraint.validated => {
            Some(Gain::Check { name, definition: constraint.definition.clone() })
        }
        ('p' | 'u', Some(index)) if !constraint.temporal && !index.exclusion => {
            let nullable = |n: &&i16| before.column(**n).is_some_and(|c| !c.not_null);
            let named = |n: &i16| before.column(*n).map(|c| c.name.clone());
            let nullable = match constraint.kind {
                'p' => index.attnums.iter().filter(nullable).filter_map(named).collect(),
                _ => Vec::new(),
            };
            let is_it = |was: &&Index| was.oid == index.oid;
            let had = before.indexes.iter().find(is_it).map(|was| was.name.clone());
            Some(Gain::Key { name, primary: constraint.kind == 'p', nullable, index: had })
        }
        ('p' | 'u' | 'x', _) => Some(Gain::Exclusion { name }),
        _ => None,
    }
}
