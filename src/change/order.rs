//! The order of the future table's columns.

use crate::catalog::{Column, Table};
use crate::error::{Error, Result};

/// Puts those that are `first` in front, in that order; the others follow as they were.
///
/// The columns keep their numbers, by which they are known everywhere: only CREATE TABLE looks at their order.
pub(super) fn put_first(target: &mut Table, first: &[String]) -> Result<()> {
    let mut rest = std::mem::take(&mut target.columns);
    let names: Vec<String> = rest.iter().map(|column| column.name.clone()).collect();
    let take = |name: &String, rest: &mut Vec<Column>| {
        let at = rest.iter().position(|column| column.name == *name);
        at.map(|at| rest.remove(at)).ok_or_else(|| match names.contains(name) {
            true => Error::usage(format!("--column-order names column {name:?} twice")),
            false => Error::usage(format!(
                "--column-order names column {name:?}, which the table will not have; it will have {}",
                names.join(", ")
            )),
        })
    };
    for name in first {
        let column = take(name, &mut rest)?;
        target.columns.push(column);
    }
    target.columns.append(&mut rest);
    Ok(())
}
