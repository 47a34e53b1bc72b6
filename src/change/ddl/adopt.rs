//! The table of the file in the source's place: whose column is whose, what follows, what is left out. Pure.

use super::places;
use crate::catalog::{Column, Constraint, ForeignKey, Index, Sequence, Table};
use crate::change::Plan;
use crate::pg::QualifiedName;

/// `made` as the source's future: its columns numbered as the source's of their names are, new ones behind
/// those; with what follows from the source and is neither shape nor rows.
pub(super) fn adopt(source: &Table, made: &Table) -> Table {
    let mut target = numbered(source, made.clone().renamed(&source.qualified(), str::to_owned));
    target.grants.clone_from(&source.grants);
    target.system_columns.clone_from(&source.system_columns);
    target.comment = target.comment.take().or_else(|| source.comment.clone());
    target.type_comment = target.type_comment.take().or_else(|| source.type_comment.clone());
    (target.row_security, target.force_row_security) =
        (source.row_security, source.force_row_security);
    target.statistics.clone_from(&source.statistics);
    target.foreign_keys = foreign_keys(source, &target);
    for column in &mut target.columns {
        let Some(old) = source.column_named(&column.name) else { continue };
        column.grants.clone_from(&old.grants);
        column.comment = column.comment.take().or_else(|| old.comment.clone());
        column.statistics_target = column.statistics_target.or(old.statistics_target);
        if column.options.is_empty() {
            column.options.clone_from(&old.options);
        }
    }
    let columns = &target.columns;
    for sequence in target.sequences.iter_mut().filter(|sequence| sequence.identity) {
        let of = columns.iter().find(|column| column.attnum == sequence.attnum);
        let largest = match of.map(|column| column.type_name.as_str()) {
            Some("int2") => i64::from(i16::MAX),
            Some("int4") => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        sequence.max = sequence.max.min(largest);
        sequence.min = sequence.min.max(-largest - 1);
        if let Some(column) = of {
            sequence.type_sql.clone_from(&column.type_sql);
        }
    }
    identify(source, &mut target);
    go_on(source, &mut target);
    target
}

fn numbered(source: &Table, mut made: Table) -> Table {
    let known = source.columns.len() as i16;
    let numbers: Vec<(i16, i16)> = made
        .columns
        .iter()
        .enumerate()
        .map(|(n, column)| {
            let place = source.columns.iter().position(|old| old.name == column.name);
            (column.attnum, place.map_or(known + 1 + n as i16, |place| place as i16 + 1))
        })
        .collect();
    // 0 is an expression.
    let new = |old: i16| numbers.iter().find(|(n, _)| *n == old).map_or(old, |(_, new)| *new);
    made.columns.iter_mut().for_each(|c| c.attnum = new(c.attnum));
    made.sequences.iter_mut().for_each(|s| s.attnum = new(s.attnum));
    let of_indexes = made.indexes.iter_mut().map(|i| &mut i.attnums);
    let of_constraints = made.constraints.iter_mut().map(|c| &mut c.attnums);
    for attnums in of_indexes.chain(of_constraints) {
        attnums.iter_mut().for_each(|n| *n = new(*n));
    }
    made
}

/// As they are, about the columns of the same names.
fn foreign_keys(source: &Table, target: &Table) -> Vec<ForeignKey> {
    let numbers = |columns: &[i16]| -> Vec<i16> {
        let becomes = |&n: &i16| source.becomes(n, target).map_or(n, |column| column.attnum);
        columns.iter().map(becomes).collect()
    };
    let moved = |key: &ForeignKey| {
        let mut key = key.clone();
        if key.from.oid == source.oid {
            key.columns = numbers(&key.columns);
        }
        if key.to.oid == source.oid {
            key.to_columns = numbers(&key.to_columns);
        }
        key
    };
    source.foreign_keys.iter().map(moved).collect()
}

/// What the file does not say of the replica identity is as it was: FULL, or the index on the same columns.
fn identify(source: &Table, target: &mut Table) {
    if target.replica_identity != 'd' {
        return;
    }
    match source.replica_identity {
        'f' => target.replica_identity = 'f',
        'i' => {
            let Some(was) = source.indexes.iter().find(|i| i.replica_identity) else { return };
            let columns: Vec<_> =
                was.attnums.iter().map(|&n| source.becomes(n, target).map(|c| c.attnum)).collect();
            let same = |index: &&mut Index| {
                index.unique
                    && index.immediate
                    && !index.partial
                    && index.attnums.iter().map(|n| Some(*n)).eq(columns.iter().copied())
            };
            if let Some(index) = target.indexes.iter_mut().find(same) {
                index.replica_identity = true;
                target.replica_identity = 'i';
            }
        }
        _ => {}
    }
}

/// A serial column that becomes an identity column goes on counting: the new sequence where the old one stands.
fn go_on(source: &Table, target: &mut Table) {
    for old in source.sequences.iter().filter(|sequence| !sequence.identity) {
        let Some(becomes) = source.becomes(old.attnum, target).map(|column| column.attnum) else {
            continue;
        };
        let new = |s: &&mut Sequence| s.identity && s.attnum == becomes;
        if let Some(new) = target.sequences.iter_mut().find(new) {
            new.goes_on_from = Some(QualifiedName::new(&old.schema, &old.name).to_string());
        }
    }
}

/// The columns whose values stay behind: those that are not there, or are computed from now on.
pub fn dropped<'a>(source: &'a Table, target: &Table) -> Vec<&'a str> {
    let computed = |c: &Column| !c.generated.is_empty();
    let gone = |c: &&Column| match source.becomes(c.attnum, target) {
        Some(new) => computed(new) && !computed(c),
        None => true,
    };
    source.columns.iter().filter(gone).map(|column| column.name.as_str()).collect()
}

/// What the present table has and the file does not say, for people.
pub fn left_out(source: &Table, plan: &Plan) -> Vec<String> {
    let target = &plan.target;
    let mut out = Vec::new();
    let mut tell = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            out.push(format!("the new table of --shadow-ddl has not {what}: {}", names.join(", ")));
        }
    };
    let like = |a: &Index, b: &Index| {
        a.unique == b.unique && a.definition == b.definition && a.primary == b.primary
    };
    let lost = |old: &&Index| !target.indexes.iter().any(|new| like(old, new));
    let indexes = source.indexes.iter().filter(lost);
    tell(
        "these indexes of the present one (or has others in their place)",
        indexes.map(|i| format!("{} {}", i.name, i.definition)).collect(),
    );
    let lost = |old: &&Constraint| {
        old.kind == 'c' && !target.constraints.iter().any(|new| new.definition == old.definition)
    };
    let constraints = source.constraints.iter().filter(lost);
    tell(
        "these constraints of the present one",
        constraints.map(|c| format!("{} {}", c.name, c.definition)).collect(),
    );
    let columns = source.columns.iter();
    let columns: Vec<(&Column, &Column)> =
        columns.filter_map(|old| Some((old, source.becomes(old.attnum, target)?))).collect();
    let given = |column: &Column| column.default.is_some() || !column.identity.is_empty();
    let lost = columns.iter().filter(|(old, new)| given(old) && !given(new));
    tell("defaults for these columns", lost.map(|(old, _)| old.name.clone()).collect());
    let lost = columns.iter().filter(|(old, new)| old.not_null && !new.not_null);
    tell("NOT NULL for these columns", lost.map(|(old, _)| old.name.clone()).collect());
    let lost = source.options.iter().filter(|old| !target.options.contains(old));
    tell("these storage parameters", lost.cloned().collect());
    let open = plan.partitioning.iter().flat_map(|p| places::missing(&target.name, p));
    let open: Vec<String> = open.collect();
    if !open.is_empty() {
        out.push(format!(
            "the new table may have no partition for some rows, and a row that has none ends the run, before the swap: {}",
            open.join(", ")
        ));
    }
    let goes_on = target.sequences.iter().filter_map(|s| s.goes_on_from.as_ref());
    for old in goes_on {
        out.push(format!(
            "the identity column goes on counting where {old} stands at the swap; whoever calls nextval on that himself \
             gets numbers that the new table gives too"
        ));
    }
    out
}
