//! A foreign key of a partitioned table, in its partitions: pure.
//!
//! Before 18 that of a partitioned table cannot be NOT VALID, those of its partitions can. Once they are proven the
//! table's takes them for its parts, without a look at a row (`tryAttachPartitionForeignKey`).

use serde::{Deserialize, Serialize};

use crate::catalog::{ForeignKey, Table};
use crate::change::retarget::retarget;
use crate::pg::{QualifiedName, quote_ident};

/// How `pg_get_constraintdef` ends of one that is not proven.
const NOT_VALID: &str = " NOT VALID";

/// What each partition that holds rows is given, before the table takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReference {
    pub(super) name: String,
    /// What follows the constraint's name, with every name quoted.
    pub(super) definition: String,
}

/// How far one is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referring {
    Not,
    /// For what is written.
    NotValid,
    Proven,
}

impl PartReference {
    /// From then on it holds for what is written.
    pub fn add(&self, part: &QualifiedName) -> String {
        let (name, definition) = (quote_ident(&self.name), &self.definition);
        format!("ALTER TABLE {part} ADD CONSTRAINT {name} {definition}{NOT_VALID}")
    }

    /// Proves it for the rows that are there.
    pub fn validate(part: &QualifiedName, name: &str) -> String {
        format!("ALTER TABLE {part} VALIDATE CONSTRAINT {}", quote_ident(name))
    }

    /// Takes it back.
    pub fn drop(&self, part: &QualifiedName) -> String {
        format!("ALTER TABLE {part} DROP CONSTRAINT {}", quote_ident(&self.name))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far it is in `part`, and what it is called there: one like it is taken over, whoever made it.
    pub fn is_in<'a>(&self, part: &'a Table) -> (Referring, Option<&'a str>) {
        let all: Vec<&ForeignKey> = self.like(part).collect();
        let proven = all.iter().find(|key| key.validated);
        match (proven, all.first()) {
            (Some(key), _) => (Referring::Proven, Some(&key.name)),
            (None, Some(key)) => (Referring::NotValid, Some(&key.name)),
            (None, None) => (Referring::Not, None),
        }
    }

    /// The table that `part` refers to by the one that a step made, if it did.
    pub fn made_in(&self, part: &Table) -> Option<u32> {
        self.like(part).find(|key| key.name == self.name).map(|key| key.to.oid)
    }

    fn like<'a>(&self, part: &'a Table) -> impl Iterator<Item = &'a ForeignKey> {
        let is_like = |key: &&ForeignKey| {
            let definition = key.definition.strip_suffix(NOT_VALID).unwrap_or(&key.definition);
            // PostgreSQL quotes only names that need it.
            let to = key.to.qualified();
            retarget(definition, &[(to.clone(), to)]) == self.definition
        };
        part.foreign_keys.iter().filter(|key| key.from.oid == part.oid).filter(is_like)
    }
}
