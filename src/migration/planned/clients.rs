//! What clients should know of a change: pure.

use crate::catalog::{Carried, Table};

/// Of the change itself, whichever way it goes; and of a copy what it brings besides.
pub(super) fn advice(
    source: &Table,
    target: &Table,
    carried: &[Carried],
    by_copy: bool,
) -> Vec<String> {
    let mut out = Vec::new();
    let names = |table: &Table| {
        let all: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        all.join(", ")
    };
    let types = |table: &Table| -> Vec<(String, String)> {
        table.columns.iter().map(|c| (c.name.clone(), c.type_sql.clone())).collect()
    };
    if types(source) != types(target) {
        if names(source) != names(target) {
            out.push(format!(
                "SELECT * gives {}; it gave {}. INSERT without a list of columns counts on that order too",
                names(target),
                names(source)
            ));
        }
        out.push(
            "a prepared statement whose result columns change fails once with \"cached plan must not change result type\"; \
             most drivers and poolers prepare it again by themselves"
                .to_owned(),
        );
        out.push(
            "caches of rows, and mappers that keep a table's columns, should be made anew"
                .to_owned(),
        );
    }
    out.extend(references_that_stay(source, target));
    if !by_copy {
        return out;
    }
    let publications: Vec<&str> =
        carried.iter().filter(|c| c.kind == "publication").map(|c| c.name.as_str()).collect();
    if !publications.is_empty() {
        out.push(format!(
            "the publications {} list the new table from the swap on; subscribers know it by its name and go on; consumers of \
             logical decoding (CDC) that keep object ids (relid) see another one, and none of the copy",
            publications.join(", ")
        ));
    }
    out.push("the table has another object id: 'name'::regclass that somebody has stored means the old one".to_owned());
    if source.sequences.iter().any(|sequence| sequence.identity) {
        out.push(
            "the identity column's sequence is a new one with the old one's name and position: currval in a session that \
             inserted before the swap fails until it inserts again"
                .to_owned(),
        );
    }
    out.push(
        "a snapshot older than the swap (REPEATABLE READ) may miss the last moment before it, as after an ALTER TABLE that rewrites"
            .to_owned(),
    );
    out
}

/// Who refers to a column that gets another type keeps the one that it has.
fn references_that_stay(source: &Table, target: &Table) -> impl Iterator<Item = String> {
    let keys = source.foreign_keys.iter().filter(|key| key.to.oid == source.oid);
    keys.flat_map(|key| {
        let pairs = key.columns.iter().zip(&key.to_columns);
        pairs.filter_map(|(from, to)| {
            let was = source.columns.iter().find(|c| c.attnum == *to)?;
            let becomes = source.becomes(*to, target)?;
            let own = (key.from.oid == source.oid).then(|| source.becomes(*from, target)).flatten();
            let follows = own.is_some_and(|own| own.type_sql == becomes.type_sql);
            (was.type_sql != becomes.type_sql && !follows).then(|| {
                format!(
                    "{} becomes {}, but the column of {} that refers to it (foreign key {:?}) keeps its type: where that holds \
                     less, change it as well, before there is a value that it cannot hold",
                    becomes.name,
                    becomes.type_sql,
                    key.from.qualified(),
                    key.name
                )
            })
        })
    })
}
