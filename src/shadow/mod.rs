//! The shadow's DDL, made from the model: pure text, run by the phases.

mod create;
mod foreign_keys;
mod grants;
mod index;
mod partitions;
mod rows;
mod settings;
mod step;
mod swap;
#[cfg(test)]
mod tests;

pub use create::{added_later, clone_statements, create_table, not_valid_constraints};
pub use grants::{Privileges, grant_steps};
pub use index::{
    IndexPlan, Present, contains_key, has_replica_identity, index_plans, key_index, lookup_index,
    replica_identity,
};
pub use partitions::{
    Renamed, as_root, attach_index, attach_partition, clone_root, create_partition, create_root,
    create_root_index, create_whole_index, partitions, renamed,
};
pub use rows::{create_rows_view, needs_rows_view};
pub use settings::{comment, settings};
pub use step::{Step, set_role, statements};
pub use swap::{Names, Swap, TemporaryNames};
