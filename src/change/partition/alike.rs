//! A partitioned table stays divided as it is: into partitions of the same bounds, which get the names of the old ones
//! once those have given them up.

use super::names::Naming;
use super::{By, Own, Partition};
use crate::catalog::{Part, Table};
use crate::error::{Error, Kind, Result};

/// By what the new table is divided: the columns may have other names there.
pub(super) fn by(source: &Table, target: &Table) -> Result<By> {
    refuse_unlike(source)?;
    let key = source.partition_key.as_deref().unwrap_or_default();
    let by = By::parse(key).map_err(|_| {
        refused(format!(
            "{} is partitioned by {key}, which this version does not make anew",
            source.qualified()
        ))
    })?;
    let mut columns = Vec::new();
    for name in &by.columns {
        let becomes = source.column_named(name).and_then(|c| source.becomes(c.attnum, target));
        let Some(column) = becomes else {
            return Err(refused(format!(
                "the change drops column {name:?}, which {} is partitioned by",
                source.qualified()
            )));
        };
        columns.push(column.name.clone());
    }
    Ok(By { columns, ..by })
}

/// Whether a column that rows are divided by is of another type then: bounds are read again as that.
pub(super) fn is_retyped(source: &Table, target: &Table, by: &By) -> bool {
    let old = By::parse(source.partition_key.as_deref().unwrap_or_default());
    let old = old.map(|by| by.columns).unwrap_or_default();
    let types = |table: &Table, columns: &[String]| -> Vec<Option<String>> {
        columns.iter().map(|c| table.column_named(c).map(|c| c.base_type_sql.clone())).collect()
    };
    types(source, &old) != types(target, &by.columns)
}

/// The partitions.
pub(super) fn partitions(source: &Table, naming: &mut Naming<'_>) -> Vec<Partition> {
    let one = |part: &Part| {
        let own = Own {
            tablespace: source.tablespace.clone(),
            options: part.options.clone(),
            toast_options: part.toast_options.clone(),
            comment: part.comment.clone(),
        };
        Partition { own: Some(own), ..naming.named(&part.name, bound(part)) }
    };
    source.parts.iter().map(one).collect()
}

pub(super) fn bound(part: &Part) -> String {
    part.bound.clone().unwrap_or_default()
}

/// What the new partitions would not be.
fn refuse_unlike(source: &Table) -> Result<()> {
    if let Some(part) = source.parts.iter().find(|part| !part.is_leaf()) {
        return Err(refused(format!(
            "partition {} of {} is divided itself, which this version does not make anew",
            part.qualified(),
            source.qualified()
        )));
    }
    let mut own: Vec<String> = Vec::new();
    for part in &source.parts {
        own.extend(part.own.iter().map(|what| format!("{} has {what}", part.qualified())));
    }
    if own.is_empty() {
        return Ok(());
    }
    Err(refused(format!(
        "the new table's partitions would not have what these have of their own: {}",
        own.join(", ")
    )))
}

fn refused(what: String) -> Error {
    Error::new(Kind::Refused, what)
        .state("Nothing was touched")
        .next("Take that off before, or divide the new table otherwise: --partition-by \"RANGE (column)\" --partition-every …, or none")
}
