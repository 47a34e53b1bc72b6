//! One statement of a change in place: what plan prints and a run executes.

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::observed::{Observed, Other};
use super::part_key::PartKey;
use super::part_reference::PartReference;
use crate::catalog::Part;
use crate::pg::{QualifiedName, quote_ident};

/// One statement in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub sql: String,
    /// The strongest lock on the table.
    pub lock: Lock,
    pub others: Vec<Other>,
    /// What it does for that long; empty where that is a moment.
    pub takes: String,
    /// What to know of it.
    pub note: String,
    pub does: Does,
    /// What follows ALTER TABLE name, where it is one.
    pub clauses: Option<String>,
}

/// What a step does, for whoever executes it, looks whether it is done, or undoes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Does {
    /// Clauses as they were typed.
    Typed,
    AddColumn {
        column: String,
        /// Its number, once it is there: later on it may be called otherwise, and another one so.
        #[serde(default)]
        attnum: Option<i16>,
    },
    /// Gives the rows that were there a value in a new column.
    Fill {
        column: String,
        /// The column's default is that value; without one nobody here knows it.
        by_default: bool,
        /// Constraints that rows which were there before them need not fulfil: an UPDATE of one that does not is refused.
        #[serde(default)]
        refused_by: Vec<String>,
    },
    Vacuum,
    /// NOT VALID.
    AddConstraint {
        name: String,
    },
    Validate {
        name: String,
    },
    SetNotNull {
        column: String,
        #[serde(default)]
        attnum: Option<i16>,
    },
    /// Of a check that has proven what it was made for.
    DropHelper {
        name: String,
    },
    /// CONCURRENTLY.
    BuildIndex {
        name: String,
        /// What follows the table's name.
        definition: String,
        unique: bool,
    },
    /// The same in a partition, and made its constraint.
    BuildPart {
        part: u32,
        key: PartKey,
    },
    /// The table's constraint, which takes over those of its partitions.
    AttachKey {
        name: String,
        key: PartKey,
    },
    /// A foreign key of a partition, made NOT VALID and then proven.
    ReferPart {
        part: u32,
        key: PartReference,
    },
    /// The table's foreign key, which takes over those of its partitions.
    AttachReference {
        key: PartReference,
    },
    /// Makes an index a constraint.
    UseIndex {
        name: String,
        /// The index was there before the change, under whatever name.
        own_index: bool,
    },
}

impl Does {
    /// The key that it builds in a partition.
    pub fn built(&self) -> Option<&PartKey> {
        match self {
            Does::BuildPart { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The foreign key that it makes in a partition.
    pub fn referring(&self) -> Option<&PartReference> {
        match self {
            Does::ReferPart { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it takes over what partitions have.
    pub(super) fn attaches(&self) -> bool {
        matches!(self, Does::AttachKey { .. } | Does::AttachReference { .. })
    }

    /// The key that the table takes over from its partitions.
    pub fn attached(&self) -> Option<&PartKey> {
        match self {
            Does::AttachKey { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// How a step is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// In a moment, under a lock that keeps others out: with the cutover's discipline.
    Short,
    /// For as long as it takes, under a lock that keeps no reads and writes out.
    Long,
    /// In ranges of the key, each a transaction.
    Fill,
    /// Outside of a transaction.
    Vacuum,
    Build,
}

const READS: &str = "reads all rows";
const BUILDS: &str = "reads all rows twice and sorts";
const WRITES: &str = "writes every row";
const SERIALIZATION: &str = "a REPEATABLE READ or SERIALIZABLE transaction of the application that is older than a row's filling and \
    updates or locks the row fails with 40001, as beside any other update, and has to be repeated";

impl Step {
    /// A clause that was typed.
    pub(super) fn typed(table: &QualifiedName, clauses: &str, observed: &Observed) -> Step {
        let reads = observed.scans > 0 || !observed.built.is_empty();
        let step = Step::alter(table, clauses.trim(), observed.lock, Does::Typed);
        Step { others: observed.others.clone(), ..if reads { step.reads() } else { step } }
    }

    /// An ALTER TABLE that takes a moment.
    pub(super) fn alter(
        table: &QualifiedName,
        clauses: impl Into<String>,
        lock: Lock,
        does: Does,
    ) -> Step {
        let clauses = clauses.into();
        let sql = format!("ALTER TABLE {table} {clauses}");
        Step { clauses: Some(clauses), ..Step::plain(sql, lock, does) }
    }

    fn plain(sql: String, lock: Lock, does: Does) -> Step {
        let (others, takes, note) = (Vec::new(), String::new(), String::new());
        Step { sql, lock, others, takes, note, does, clauses: None }
    }

    pub(super) fn reads(self) -> Step {
        Step { takes: READS.to_owned(), ..self }
    }

    pub(super) fn note(self, note: impl Into<String>) -> Step {
        Step { note: note.into(), ..self }
    }

    /// Gives a new column's rows that were there their value.
    pub(super) fn fill(
        table: &QualifiedName,
        column: &str,
        by_default: bool,
        refused_by: Vec<String>,
    ) -> Step {
        let quoted = quote_ident(column);
        let value = if by_default { "DEFAULT" } else { "…" };
        let sql = format!("UPDATE {table} SET {quoted} = {value} WHERE {quoted} IS NULL");
        let how = match by_default {
            true => {
                "in ranges of the key, each a transaction of its own; until it is done NULL in the column means that the row was not \
                 come to yet; subscribers and consumers of logical decoding get every row as an update"
            }
            false => {
                "the application writes the column from now on; fill the rows that were there in batches by the key, each in a \
                 transaction of its own, with VACUUM in between"
            }
        };
        let mut note = format!("{how}; {SERIALIZATION}");
        if !refused_by.is_empty() {
            note.push_str(&format!(
                "; fails at a row that violates {}, which may be, as it is NOT VALID: VALIDATE CONSTRAINT before",
                refused_by.join(", ")
            ));
        }
        let does = Does::Fill { column: column.to_owned(), by_default, refused_by };
        let step = Step::plain(sql, Lock::RowExclusive, does).note(note);
        Step { takes: WRITES.to_owned(), ..step }
    }

    /// After every row was written: what that left behind is of use again, and statistics know the column.
    pub(super) fn vacuum(table: &QualifiedName) -> Step {
        let sql = format!("VACUUM (ANALYZE) {table}");
        Step::plain(sql, Lock::ShareUpdateExclusive, Does::Vacuum).reads()
    }

    /// CREATE INDEX CONCURRENTLY.
    pub(super) fn build(
        create: String,
        name: &QualifiedName,
        index: &crate::catalog::Index,
    ) -> Step {
        let does = Does::BuildIndex {
            name: name.name.clone(),
            definition: index.definition.clone(),
            unique: index.unique,
        };
        let step = Step::plain(create, Lock::ShareUpdateExclusive, does).note(format!(
            "outside of a transaction; waits for every older transaction; where it fails it leaves an invalid \
             index: DROP INDEX CONCURRENTLY {name}, and repeat this step"
        ));
        Step { takes: BUILDS.to_owned(), ..step }
    }

    /// The same for a partition, whose constraint it becomes.
    pub(super) fn build_part(part: &Part, key: &PartKey) -> Step {
        let name = part.qualified();
        let sql = format!("{}; {}", key.create(&name), key.add(&name));
        let does = Does::BuildPart { part: part.oid, key: key.clone() };
        let step = Step::plain(sql, Lock::ShareUpdateExclusive, does).note(format!(
            "the first outside of a transaction; it waits for every older transaction, and leaves an invalid index where it fails; the \
             second takes ACCESS EXCLUSIVE on the partition for a moment, with a short lock_timeout ({name})"
        ));
        Step { takes: BUILDS.to_owned(), ..step }
    }

    /// A foreign key of a partition, which the table's takes over.
    pub(super) fn refer_part(part: &Part, key: &PartReference, others: &[Other]) -> Step {
        let name = part.qualified();
        let sql = format!("{}; {}", key.add(&name), PartReference::validate(&name, key.name()));
        let does = Does::ReferPart { part: part.oid, key: key.clone() };
        let step = Step::plain(sql, Lock::ShareUpdateExclusive, does).note(format!(
            "each in a transaction of its own; the first takes SHARE ROW EXCLUSIVE on the partition for a moment, with a short \
             lock_timeout, and from there on it holds for what is written to it; the second fails where a row does not fulfil it ({name})"
        ));
        Step { takes: READS.to_owned(), others: others.to_vec(), ..step }
    }

    /// How it is executed.
    pub fn how(&self) -> How {
        match (&self.does, self.takes.is_empty()) {
            (Does::Fill { .. }, _) => How::Fill,
            (Does::Vacuum, _) => How::Vacuum,
            (Does::BuildIndex { .. } | Does::BuildPart { .. }, _) => How::Build,
            (_, true) => How::Short,
            (_, false) => How::Long,
        }
    }

    /// The same on an empty table, in a transaction; None where it changes no catalog.
    pub(super) fn rehearsed(&self, table: &QualifiedName) -> Option<String> {
        match &self.does {
            Does::Fill { .. } | Does::Vacuum | Does::BuildPart { .. } | Does::ReferPart { .. } => {
                None
            }
            Does::BuildIndex { name, definition, unique } => {
                let unique = if *unique { "UNIQUE " } else { "" };
                Some(format!("CREATE {unique}INDEX {} ON {table} {definition}", quote_ident(name)))
            }
            _ => self.clauses.as_ref().map(|clauses| format!("ALTER TABLE {table} {clauses}")),
        }
    }
}
