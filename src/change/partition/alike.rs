//! A partitioned table stays divided as it is, however deep: into partitions of the same bounds, which get the names of
//! the old ones once those have given them up.

use std::collections::{HashMap, VecDeque};

use super::names::Naming;
use super::trial::one_for_all;
use super::{By, Own, Partition, Strategy};
use crate::catalog::{Part, Table};
use crate::error::{Error, Kind, Result};

/// By what the new table is divided: the columns may have other names there.
pub(super) fn by(source: &Table, target: &Table) -> Result<By> {
    refuse_unlike(source)?;
    refuse_settings_of_rows(source, target)?;
    let key = source.partition_key.as_deref().unwrap_or_default();
    divided(source, target, (&source.qualified().to_string(), key))
}

/// What the clauses set for rows: a partitioned table has none, and PostgreSQL would refuse them as well.
fn refuse_settings_of_rows(source: &Table, target: &Table) -> Result<()> {
    let marked = |table: &Table| table.indexes.iter().any(|index| index.clustered);
    let what = match () {
        () if (&source.options, &source.toast_options)
            != (&target.options, &target.toast_options) =>
        {
            "storage parameters, SET (…)"
        }
        () if marked(target) && !marked(source) => "an index that it is clustered by, CLUSTER ON",
        () => return Ok(()),
    };
    Err(Error::usage(format!(
        "--alter gives {} {what}: it is partitioned, and only its partitions have rows",
        source.qualified()
    ))
    .next("Give it to each partition, before or after the copy: it follows them"))
}

fn divided(source: &Table, target: &Table, (name, key): (&str, &str)) -> Result<By> {
    let by = By::parse(key).map_err(|_| {
        refused(format!("{name} is partitioned by {key}, which this version does not make anew"))
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

/// By what a partition is divided itself, where it is.
fn below(source: &Table, target: &Table, part: &Part) -> Result<Option<By>> {
    let Some(key) = part.partition_key.as_deref() else { return Ok(None) };
    divided(source, target, (&part.qualified().to_string(), key)).map(Some)
}

/// Whether a column that rows are divided by, on any level, is of another type then: bounds are read again as that.
fn is_retyped(source: &Table, target: &Table) -> bool {
    let keys = source.parts.iter().filter_map(|part| part.partition_key.as_deref());
    let keys = keys.chain(source.partition_key.as_deref());
    let columns = keys.filter_map(|key| By::parse(key).ok()).flat_map(|by| by.columns);
    let columns: Vec<String> = columns.collect();
    columns.iter().filter_map(|name| source.column_named(name)).any(|old| {
        let new = source.becomes(old.attnum, target);
        new.is_none_or(|new| new.base_type_sql != old.base_type_sql)
    })
}

/// The partitions.
pub(super) fn partitions(
    source: &Table,
    target: &Table,
    naming: &mut Naming<'_>,
) -> Result<Vec<Partition>> {
    tree(source, target, |part| {
        let own = Own {
            tablespace: source.tablespace.clone(),
            options: part.options.clone(),
            toast_options: part.toast_options.clone(),
            comment: part.comment.clone(),
        };
        Partition { own: Some(own), ..naming.named(&part.name, bound(part)) }
    })
}

/// What `one` makes of each of the parts, behind what it is a part of and told of that.
fn tree(
    source: &Table,
    target: &Table,
    mut one: impl FnMut(&Part) -> Partition,
) -> Result<Vec<Partition>> {
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut out = Vec::new();
    for part in &source.parts {
        let mut partition = one(part);
        partition.of = names.get(&part.parent).cloned();
        partition.by = below(source, target, part)?.map(|by| by.sql());
        names.insert(part.oid, partition.name.clone());
        out.push(partition);
    }
    Ok(out)
}

/// What is enough of them to try the change on, under names of its own: whatever is divided, and below each of those one
/// partition that takes every row. All of them where their bounds are read anew.
pub(super) fn on_trial(
    source: &Table,
    target: &Table,
    root: &By,
    name: impl Fn(usize) -> String,
) -> Result<Vec<Partition>> {
    let mut n = 0;
    let mut next = || {
        n += 1;
        name(n - 1)
    };
    if is_retyped(source, target) {
        return tree(source, target, |part| Partition::of_rows(next(), bound(part)));
    }
    let mut out: Vec<Partition> = Vec::new();
    // What is divided, with its name; the table itself has none of these.
    let mut divided = VecDeque::from([(source.oid, None, root.clone())]);
    while let Some((oid, of, by)) = divided.pop_front() {
        let parts: Vec<&Part> = source.parts.iter().filter(|part| part.parent == oid).collect();
        // Beside a remainder that is divided there can be no partition that takes the others.
        let whole = by.strategy == Strategy::Hash && parts.iter().any(|part| !part.is_leaf());
        let mut takes_all = whole;
        for part in parts.into_iter().filter(|part| whole || !part.is_leaf()) {
            let mut partition = Partition::of_rows(next(), bound(part));
            partition.of.clone_from(&of);
            if let Some(by) = below(source, target, part)? {
                partition.by = Some(by.sql());
                divided.push_back((part.oid, Some(partition.name.clone()), by));
            }
            takes_all |= partition.bound == "DEFAULT";
            out.push(partition);
        }
        if !takes_all {
            out.push(Partition { of, ..one_for_all(&by, next()) });
        }
    }
    Ok(out)
}

fn bound(part: &Part) -> String {
    part.bound.clone().unwrap_or_default()
}

/// What the new partitions would not be.
fn refuse_unlike(source: &Table) -> Result<()> {
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
