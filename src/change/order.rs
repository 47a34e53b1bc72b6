//! The order of the future table's columns.

use super::no_such_column;
use crate::catalog::{Column, Table};
use crate::error::{Error, Result};

/// Puts those that are `first` in front, in that order; the others follow as they were.
///
/// The columns keep their numbers, by which they are known everywhere: only CREATE TABLE looks at their order.
pub(super) fn put_first(target: &mut Table, first: &[String]) -> Result<()> {
    for (n, name) in first.iter().enumerate() {
        if target.column_named(name).is_none() {
            return Err(no_such_column("--column-order", name, target));
        }
        if first[..n].contains(name) {
            return Err(Error::usage(format!("--column-order names column {name:?} twice")));
        }
    }
    let place = |c: &Column| first.iter().position(|name| *name == c.name).unwrap_or(first.len());
    target.columns.sort_by_key(place);
    Ok(())
}
