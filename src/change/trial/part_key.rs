//! A key of a partitioned table, in its partitions: pure.

use serde::{Deserialize, Serialize};

use crate::catalog::{Index, Table};
use crate::pg::name::derived_name;
use crate::pg::{QualifiedName, quote_ident};

/// What each partition that holds rows is given, before the table takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartKey {
    pub(super) primary: bool,
    /// By name: partitions may have them in another order.
    pub(super) columns: Vec<String>,
    /// What follows a table's name in CREATE INDEX.
    pub(super) definition: String,
    pub(super) deferrable: String,
}

impl PartKey {
    /// Its name in the partition called `part`: that which PostgreSQL gives it.
    pub fn name(&self, part: &str) -> String {
        match self.primary {
            true => derived_name(part, "_pkey"),
            false => derived_name(&format!("{part}_{}", self.columns.join("_")), "_key"),
        }
    }

    /// Builds its index.
    pub fn create(&self, part: &QualifiedName) -> String {
        let name = quote_ident(&self.name(&part.name));
        format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {part} {}", self.definition)
    }

    /// Makes that a constraint.
    pub fn add(&self, part: &QualifiedName) -> String {
        let name = quote_ident(&self.name(&part.name));
        let kind = if self.primary { "PRIMARY KEY" } else { "UNIQUE" };
        let deferrable = &self.deferrable;
        format!("ALTER TABLE {part} ADD CONSTRAINT {name} {kind} USING INDEX {name}{deferrable}")
    }

    /// Whether `index` is the one, perhaps not built to its end.
    pub fn is_of(&self, index: &Index) -> bool {
        index.unique && index.definition == self.definition
    }

    /// Whether `index` is the one.
    pub fn is_index(&self, index: &Index) -> bool {
        index.valid && self.is_of(index)
    }

    /// Whether `part` has the constraint: one like it is taken over, whatever it is called.
    pub fn is_in(&self, part: &Table) -> bool {
        let kind = if self.primary { 'p' } else { 'u' };
        let constraint = |index| part.constraint_of(index).is_some_and(|c| c.kind == kind);
        part.indexes.iter().any(|index| self.is_index(index) && constraint(index))
    }
}
