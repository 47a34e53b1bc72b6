//! Foreign keys at the swap, from the table, to it, and to itself.
//!
//! They are bound NOT VALID, which looks at no row, and validated after it without blocking anybody. On
//! the shadow they would lock, and fail, the application's writes to the tables at their other ends.

use super::Step;
use super::settings::comment;
use crate::catalog::{ForeignKey, Table};
use crate::pg::{QualifiedName, quote_ident};

/// Takes them off the old table. Needs the rights of both tables' owners.
pub(super) fn unbind(source: &Table) -> Vec<Step> {
    let drop = |key: &ForeignKey| {
        let (from, name) = (key.from.qualified(), quote_ident(&key.name));
        Step::by_tool(format!("ALTER TABLE {from} DROP CONSTRAINT {name}"))
    };
    source.foreign_keys.iter().map(drop).collect()
}

/// Puts them on the new one, which has the name by then.
pub(super) fn bind(target: &Table, leaves: &[QualifiedName], version: i32) -> Vec<Step> {
    let mut out = Vec::new();
    for key in &target.foreign_keys {
        let not_valid = if key.validated { " NOT VALID" } else { "" };
        if goes_by_leaf(key, target, leaves, version) {
            out.extend(leaves.iter().map(|leaf| add(key, leaf, not_valid)));
            continue;
        }
        out.push(add(key, &key.from.qualified(), not_valid));
        out.extend(commented(key));
    }
    out
}

/// Before 18 a foreign key of a partitioned table cannot be NOT VALID, but those of its partitions can. Once
/// they are proven the table's takes them for its parts, without a look at a row.
fn goes_by_leaf(key: &ForeignKey, target: &Table, leaves: &[QualifiedName], version: i32) -> bool {
    !leaves.is_empty()
        && version < 180_000
        && key.validated
        && key.from.qualified() == target.qualified()
}

fn add(key: &ForeignKey, from: &QualifiedName, not_valid: &str) -> Step {
    let (name, definition) = (quote_ident(&key.name), &key.definition);
    Step::by_tool(format!("ALTER TABLE {from} ADD CONSTRAINT {name} {definition}{not_valid}"))
}

fn commented(key: &ForeignKey) -> Option<Step> {
    key.comment.as_ref()?;
    let on = format!("{} ON {}", quote_ident(&key.name), key.from.qualified());
    Some(Step::by_tool(comment("CONSTRAINT", &on, &key.comment)))
}

/// What proves, after the swap, those that were proven before: as the referring table's owner, since
/// comparing keys of two types may run functions of theirs; where row security would hide rows from him,
/// with the tool's rights.
pub(super) fn validations(target: &Table, leaves: &[QualifiedName], version: i32) -> Vec<Step> {
    let mut out = Vec::new();
    for key in target.foreign_keys.iter().filter(|key| key.validated) {
        if !goes_by_leaf(key, target, leaves, version) {
            out.push(validate(key, &key.from.qualified()));
            continue;
        }
        out.extend(leaves.iter().map(|leaf| validate(key, leaf)));
        out.push(add(key, &key.from.qualified(), ""));
        out.extend(commented(key));
    }
    out
}

/// What proves those that go by leaf on these `leaves` alone.
pub(super) fn validations_of_leaves(
    target: &Table,
    leaves: &[QualifiedName],
    version: i32,
) -> Vec<Step> {
    let keys = target.foreign_keys.iter();
    let by_leaf = keys.filter(|key| goes_by_leaf(key, target, leaves, version));
    by_leaf.flat_map(|key| leaves.iter().map(|leaf| validate(key, leaf))).collect()
}

fn validate(key: &ForeignKey, from: &QualifiedName) -> Step {
    let name = quote_ident(&key.name);
    let hidden = key.from.forces_row_security || key.to.forces_row_security;
    let role = (!hidden).then(|| key.from.owner.clone());
    Step { role, sql: format!("ALTER TABLE {from} VALIDATE CONSTRAINT {name}") }
}
