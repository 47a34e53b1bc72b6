//! What the operator asked for, turned into the table's future shape, the projection that fills it
//! and the mapping of its key.
//!
//! PostgreSQL is asked, not a parser: the change is applied to an empty clone of the table inside a
//! transaction that is rolled back, and the result is read from the catalogs.

mod alter;
mod as_text;
mod clauses;
mod clone;
pub mod ddl;
mod distinct;
mod expression;
mod follow;
mod foreign_keys;
mod in_turn;
mod key;
mod newcomers;
mod order;
mod order_by;
pub mod partition;
mod probe;
mod references;
mod rehearse;
mod retarget;
mod stand_in;
pub mod trial;

pub use foreign_keys::lost_by_cascade;
pub use key::own as own_key;
pub use order_by::refuse_crowds;
pub use rehearse::{rehearse, rehearse_within};

use crate::catalog::{Carried, Table};
use crate::error::{Error, Result};

/// The change as the operator typed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Request {
    /// What would follow `ALTER TABLE name`, one entry a flag.
    pub alters: Vec<String>,
    /// `column = expression` over the source's row.
    pub maps: Vec<(String, String)>,
    /// A condition over the source's row: rows for which it is not true are left behind.
    pub keep: Option<String>,
    /// Columns that come first, in this order.
    pub column_order: Vec<String>,
    /// Indexes are made on the empty table, before the copy. Of the migration, not one of its limits: ranges
    /// that were copied without them leave the long build that this is to avoid, and an index that is built
    /// over ranges of different moments refuses values that are no duplicates.
    pub indexes_before: bool,
    /// The table becomes a partitioned one, or an ordinary one.
    pub partition: Option<partition::Asked>,
    /// The text of the file that makes the new table.
    pub shadow_ddl: Option<String>,
    /// The index whose order rows are written in.
    pub order_by: Option<String>,
    /// The table is written anew whatever else is asked for.
    pub anew: bool,
    /// The table itself is altered, in careful steps. Of the migration, too: nobody goes on with steps by a copy.
    pub in_place: bool,
}

impl Request {
    /// Whether it asks that what hangs on something that goes be dropped too.
    pub(crate) fn cascades(&self) -> bool {
        self.alters.iter().any(|clauses| clauses::cascade(clauses))
    }

    /// What no way makes, said before one is looked for.
    pub(crate) fn refuse_by_name(&self) -> Result<()> {
        self.alters.iter().try_for_each(|clauses| alter::refuse_by_name(clauses))
    }

    /// A partitioned table stays divided as it is.
    pub fn keeps_partitions(&self) -> bool {
        self.partition.is_none() && self.shadow_ddl.is_none()
    }

    /// Why no ALTER TABLE makes it; None where one does.
    pub fn needs_copy(&self) -> Option<&'static str> {
        if self.shadow_ddl.is_some() {
            Some("the new table is what --shadow-ddl makes: PostgreSQL has no such ALTER TABLE")
        } else if !self.maps.is_empty() {
            Some("--map gives rows other values: PostgreSQL has no such ALTER TABLE")
        } else if self.keep.is_some() {
            Some("--where leaves rows behind: PostgreSQL has no such ALTER TABLE")
        } else if !self.column_order.is_empty() {
            Some("columns take another order: PostgreSQL has no such ALTER TABLE")
        } else if self.partition.is_some() {
            Some(
                "PostgreSQL has no ALTER TABLE that divides a table into partitions, or makes one of them",
            )
        } else if self.order_by.is_some() {
            Some("the rows are to be written anew, in the order of an index")
        } else if self.anew || self.alters.is_empty() {
            Some("the rows are to be written anew")
        } else {
            None
        }
    }
}

/// A flag names a column that the future table has not.
fn no_such_column(flag: &str, column: &str, target: &Table) -> Error {
    Error::usage(format!(
        "{flag} names column {column:?}, which the table will not have; it will have {}",
        target.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    ))
}

/// The table's future shape and how its rows come about.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The future table, under the source's name.
    pub target: Table,
    /// How each column of the target is filled.
    pub projection: Vec<Projected>,
    /// The source's key columns, in key order, and where they go.
    pub key: Vec<KeyColumn>,
    /// What follows the source.
    pub carried: Vec<Carried>,
    /// SQL over the source's row under the alias `s`: only rows for which it is true are in the target.
    pub keep: Option<String>,
    /// How the target is partitioned, where it is.
    pub partitioning: Option<partition::Partitioning>,
    /// The order that rows are copied in, where that is not the key's.
    pub order: Option<Course>,
    /// Columns whose expressions call what reads settings of the session (STABLE), and --where.
    pub by_settings: Vec<String>,
    /// Signatures of the functions that rows are made by, but for PostgreSQL's own.
    pub functions: Vec<String>,
}

/// What ranges of rows go along: columns of the source that say of any two rows which comes first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Course {
    pub columns: Vec<CourseColumn>,
    /// From the greatest to the smallest.
    pub descending: bool,
}

/// One column of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CourseColumn {
    pub source: String,
    pub source_type_oid: u32,
    /// The type without modifier.
    pub source_type_sql: String,
    /// Its collation, where that is not the type's own.
    pub source_collation: Option<String>,
}

impl Course {
    /// The key's own order.
    pub fn of_key(key: &[KeyColumn]) -> Course {
        let columns = key.iter().map(|column| CourseColumn {
            source: column.source.clone(),
            source_type_oid: column.source_type_oid,
            source_type_sql: column.source_type_sql.clone(),
            source_collation: column.source_collation.clone(),
        });
        Course { columns: columns.collect(), descending: false }
    }
}

/// How one column of the target is filled.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Projected {
    /// The target's column.
    pub column: String,
    /// The target's type with its modifier.
    pub type_sql: String,
    /// Whether two equal values always have the same bytes, so that the type's own hash is exact.
    pub canonical: bool,
    /// Whether large values are kept outside of the row (TOAST), as far as is known.
    #[serde(default)]
    pub toasted: bool,
    /// The target column's collation, where the expression may have another: by that it would hash otherwise, and not
    /// compare with the target at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    /// SQL over the source's row under the alias `s`; None where the server gives the value: of a
    /// generated column, and of a new one whose default gives each row a value of its own.
    pub expression: Option<String>,
}

/// One column of the key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyColumn {
    /// The captured column.
    pub source: String,
    pub source_type_oid: u32,
    /// The captured column's type without modifier.
    pub source_type_sql: String,
    /// Its collation, where that is not the type's own.
    pub source_collation: Option<String>,
    /// Whether two equal values always have the same bytes (`1.0` and `1.00` are equal and differ).
    pub canonical: bool,
    /// The target's column.
    pub target: String,
    pub target_type_sql: String,
    /// The target's collation, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_collation: Option<String>,
    /// SQL over the captured key alone (alias `s`): a deleted row exists only as a key.
    pub expression: String,
    /// Whether the target's order of this column is the source's.
    pub keeps_order: bool,
}
