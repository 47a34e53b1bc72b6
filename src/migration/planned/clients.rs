//! What clients should know of a change: pure.

use crate::catalog::{Carried, Table};
use crate::change::trial::Way;

/// What is known of a change.
pub(super) struct Known<'a> {
    pub(super) source: &'a Table,
    /// What it becomes, as far as is known.
    pub(super) target: Option<&'a Table>,
    /// What follows it in a copy.
    pub(super) carried: &'a [Carried],
    pub(super) way: Way,
    /// Logical slots of the database that are not ours.
    pub(super) slots: &'a [String],
}

const WITHOUT: &str = "without --in-place, by a copy: ";

impl Known<'_> {
    /// Of the change itself, whichever way it goes; and of a copy what it brings besides.
    pub(super) fn advice(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(target) = self.target {
            out.extend(self.of_names(target));
            out.extend(references_that_stay(self.source, target));
        }
        match self.way {
            Way::Instant => {}
            Way::Online | Way::Careful => {
                out.extend(self.of_a_copy().into_iter().map(|what| format!("{WITHOUT}{what}")));
            }
            Way::ShadowCopy | Way::Unknown => out.extend(self.of_a_copy()),
        }
        out
    }

    fn of_names(&self, target: &Table) -> Vec<String> {
        let names = |table: &Table| {
            let all: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            all.join(", ")
        };
        let types = |table: &Table| -> Vec<(String, String)> {
            table.columns.iter().map(|c| (c.name.clone(), c.type_sql.clone())).collect()
        };
        if types(self.source) == types(target) {
            return Vec::new();
        }
        let (was, becomes) = (names(self.source), names(target));
        let order = (was != becomes).then(|| {
            format!(
                "SELECT * gives {becomes}; it gave {was}. INSERT without a list of columns counts on that order too"
            )
        });
        let all = [
            "a prepared statement whose result columns change fails once with \"cached plan must not change result type\"; \
             most drivers and poolers prepare it again by themselves",
            "caches of rows, and mappers that keep a table's columns, should be made anew",
        ];
        order.into_iter().chain(all.map(str::to_owned)).collect()
    }

    fn of_a_copy(&self) -> Vec<String> {
        let mut out = Vec::new();
        let publications: Vec<&str> = self
            .carried
            .iter()
            .filter(|c| c.kind == "publication")
            .map(|c| c.name.as_str())
            .collect();
        if !publications.is_empty() {
            out.push(format!(
                "the publications {} list the new table from the swap on; subscribers know it by its name and go on; consumers of \
                 logical decoding (CDC) that keep object ids (relid) see another one, and none of the copy",
                publications.join(", ")
            ));
        }
        if !self.slots.is_empty() {
            out.push(format!(
                "the logical slots {} decode what the copy writes, too: a consumer that takes every table of the database, filtered by \
                 no publication or list, is told of the new table's rows under its name of that time; --max-subscriber-lag has the \
                 copy wait for those in use",
                self.slots.join(", ")
            ));
        }
        out.push("the table has another object id: 'name'::regclass that somebody has stored means the old one".to_owned());
        if self.source.sequences.iter().any(|sequence| sequence.identity) {
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
