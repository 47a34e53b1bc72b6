//! Foreign keys at the swap, from the table, to it, and to itself.
//!
//! They are bound NOT VALID, which looks at no row, and validated after it without blocking anybody. On
//! the shadow they would lock, and fail, the application's writes to the tables at their other ends.

use super::Step;
use super::settings::comment;
use crate::catalog::{ForeignKey, Table};
use crate::pg::quote_ident;

/// Takes them off the old table. Needs the rights of both tables' owners.
pub(super) fn unbind(source: &Table) -> Vec<Step> {
    let drop = |key: &ForeignKey| {
        let (from, name) = (key.from.qualified(), quote_ident(&key.name));
        Step::by_tool(format!("ALTER TABLE {from} DROP CONSTRAINT {name}"))
    };
    source.foreign_keys.iter().map(drop).collect()
}

/// Puts them on the new one, which has the name by then.
pub(super) fn bind(target: &Table) -> Vec<Step> {
    let mut out = Vec::new();
    for key in &target.foreign_keys {
        let (from, name) = (key.from.qualified(), quote_ident(&key.name));
        let not_valid = if key.validated { " NOT VALID" } else { "" };
        let definition = &key.definition;
        out.push(Step::by_tool(format!(
            "ALTER TABLE {from} ADD CONSTRAINT {name} {definition}{not_valid}"
        )));
        if key.comment.is_some() {
            let sql = comment("CONSTRAINT", &format!("{name} ON {from}"), &key.comment);
            out.push(Step::by_tool(sql));
        }
    }
    out
}

/// What proves, after the swap, those that were proven before: as the referring table's owner, since
/// comparing keys of two types may run functions of theirs; where row security would hide rows from him,
/// with the tool's rights.
pub(super) fn validations(target: &Table) -> impl Iterator<Item = Step> {
    target.foreign_keys.iter().filter(|key| key.validated).map(|key| {
        let (from, name) = (key.from.qualified(), quote_ident(&key.name));
        let hidden = key.from.forces_row_security || key.to.forces_row_security;
        let role = (!hidden).then(|| key.from.owner.clone());
        Step { role, sql: format!("ALTER TABLE {from} VALIDATE CONSTRAINT {name}") }
    })
}
