//! The same change in steps of which none keeps anybody out for long: pure.

use super::lock::Lock;
use super::observed::{Gain, Observed, Other};
use crate::catalog::{Column, Table};
use crate::pg::name::derived_name;
use crate::pg::{QualifiedName, quote_ident};
use crate::shadow::index_plans;

/// One statement in place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    pub sql: String,
    /// The strongest lock on the table.
    pub lock: Lock,
    pub others: Vec<Other>,
    /// What it does for that long; empty where that is a moment.
    pub takes: String,
    /// What to know of it.
    pub note: String,
}

const READS: &str = "reads all rows";
const BUILDS: &str = "reads all rows twice and sorts";

impl Step {
    fn new(sql: String, lock: Lock, takes: &str) -> Step {
        Step { sql, lock, others: Vec::new(), takes: takes.to_owned(), note: String::new() }
    }

    fn note(self, note: impl Into<String>) -> Step {
        Step { note: note.into(), ..self }
    }

    /// As typed.
    pub(super) fn typed(table: &QualifiedName, clauses: &str, observed: &Observed) -> Step {
        let takes = match observed.scans > 0 || !observed.built.is_empty() {
            true => READS,
            false => "",
        };
        let sql = format!("ALTER TABLE {table} {}", clauses.trim());
        Step { others: observed.others.clone(), ..Step::new(sql, observed.lock, takes) }
    }
}

/// Makes the steps of one clause.
pub(super) struct Careful<'a> {
    pub(super) table: &'a QualifiedName,
    pub(super) version: i32,
    /// Before the clause and after it, both under the source's name.
    pub(super) before: &'a Table,
    pub(super) after: &'a Table,
    pub(super) observed: &'a Observed,
}

impl Careful<'_> {
    /// None where there are none.
    pub(super) fn steps(&self) -> Option<Vec<Step>> {
        let Observed { gains, rewritten, moved, others, .. } = self.observed;
        if *rewritten || *moved || gains.is_empty() || others.iter().any(|o| o.scanned) {
            return None;
        }
        if !self.all_built_is_gained() || !self.columns_stay() {
            return None;
        }
        let known = |c: &&Column| self.before.column(c.attnum).is_some();
        let new = self.after.columns.iter().filter(|c| !known(c));
        let mut out: Vec<Step> = new.map(|c| self.add_column(c)).collect();
        // What a new column's rows have as values comes before what is asked of those.
        let (empty, rest): (Vec<&Gain>, Vec<&Gain>) =
            gains.iter().partition(|gain| matches!(gain, Gain::NoValue { .. }));
        for gain in empty.into_iter().chain(rest) {
            out.extend(self.gain(gain)?);
        }
        Some(out)
    }

    fn all_built_is_gained(&self) -> bool {
        let keys = self.observed.gains.iter().filter_map(|gain| match gain {
            Gain::Key { name, .. } => Some(name),
            _ => None,
        });
        let keys: Vec<&String> = keys.collect();
        self.observed.built.iter().all(|index| keys.contains(&index))
    }

    /// Nothing of the columns that were there changes but that they may be NULL.
    fn columns_stay(&self) -> bool {
        self.before.columns.iter().all(|was| {
            self.after.column(was.attnum).is_some_and(|is| {
                let of = |c: &Column| {
                    let texts =
                        [&c.name, &c.type_sql, &c.generated, &c.identity].map(String::clone);
                    (texts, c.collation.clone(), c.default.clone(), c.storage)
                };
                of(was) == of(is)
            })
        })
    }

    fn alter(&self, what: impl std::fmt::Display, lock: Lock, takes: &str) -> Step {
        Step::new(format!("ALTER TABLE {} {what}", self.table), lock, takes)
    }

    fn add_column(&self, column: &Column) -> Step {
        let mut what = format!("ADD COLUMN {} {}", quote_ident(&column.name), column.type_sql);
        if let Some(collation) = &column.collation {
            what.push_str(&format!(" COLLATE {collation}"));
        }
        match (&column.default, column.generated.as_str()) {
            (Some(default), "v") => {
                what.push_str(&format!(" GENERATED ALWAYS AS ({default}) VIRTUAL"));
            }
            (Some(default), _) => what.push_str(&format!(" DEFAULT {default}")),
            (None, _) => {}
        }
        self.alter(what, Lock::AccessExclusive, "")
    }

    fn gain(&self, gain: &Gain) -> Option<Vec<Step>> {
        match gain {
            Gain::NotNull { column } => Some(self.not_null(column)),
            Gain::NoValue { column, .. } => {
                let quoted = quote_ident(column);
                let fill = format!("UPDATE {} SET {quoted} = … WHERE {quoted} IS NULL", self.table);
                let fill = Step::new(fill, Lock::RowExclusive, "writes every row")
                    .note("the application writes the column from now on; fill the rows that were there in batches by the key, \
                           each in a transaction of its own, with VACUUM in between");
                Some([fill].into_iter().chain(self.not_null(column)).collect())
            }
            Gain::Check { name, definition } => {
                Some(self.not_valid(name, definition, Lock::AccessExclusive))
            }
            Gain::ForeignKey { name, definition } => {
                let mut steps = self.not_valid(name, definition, Lock::ShareRowExclusive);
                for step in &mut steps[..1] {
                    step.others = self.observed.others.clone();
                }
                Some(steps)
            }
            Gain::Key { name, nullable, index, .. } => self.key(name, nullable, index.as_deref()),
            Gain::Exclusion { .. } => None,
        }
    }

    fn not_valid(&self, name: &str, definition: &str, lock: Lock) -> Vec<Step> {
        let name = quote_ident(name);
        vec![
            self.alter(format!("ADD CONSTRAINT {name} {definition} NOT VALID"), lock, "")
                .note("from here on it holds for what is written"),
            self.validate(&name),
        ]
    }

    fn validate(&self, quoted: &str) -> Step {
        let what = format!("VALIDATE CONSTRAINT {quoted}");
        self.alter(what, Lock::ShareUpdateExclusive, READS)
            .note("fails where a row does not fulfil it: correct the row and repeat this step")
    }

    fn not_null(&self, column: &str) -> Vec<Step> {
        let quoted = quote_ident(column);
        let name = derived_name(&format!("{}_{column}", self.table.name), "_not_null");
        let name = quote_ident(&name);
        let exclusive = Lock::AccessExclusive;
        // Since 18 NOT NULL is a constraint, and may be NOT VALID itself.
        if self.version >= 180_000 {
            let add = format!("ADD CONSTRAINT {name} NOT NULL {quoted} NOT VALID");
            return vec![self.alter(add, exclusive, ""), self.validate(&name)];
        }
        let check = format!("ADD CONSTRAINT {name} CHECK ({quoted} IS NOT NULL) NOT VALID");
        vec![
            self.alter(check, exclusive, ""),
            self.validate(&name),
            self.alter(format!("ALTER COLUMN {quoted} SET NOT NULL"), exclusive, "")
                .note("the check proves it: no row is read"),
            self.alter(format!("DROP CONSTRAINT {name}"), exclusive, ""),
        ]
    }

    fn key(&self, name: &str, nullable: &[String], index: Option<&str>) -> Option<Vec<Step>> {
        let plans = index_plans(self.after, self.table, str::to_owned);
        let plan = plans.into_iter().find(|plan| plan.name == name)?;
        let (create, attach) = (plan.create_concurrently?, plan.attach?);
        if plan.index.tablespace.is_some() {
            return None;
        }
        let mut out = Vec::new();
        let mut last = Vec::new();
        for column in nullable {
            let mut proof = self.not_null(column);
            // The check goes once the key is there.
            if self.version < 180_000 {
                last.extend(proof.pop());
            }
            out.extend(proof);
        }
        let index = match index {
            Some(index) => index,
            None => {
                let leftover = format!("DROP INDEX CONCURRENTLY {}", self.table.sibling(name));
                out.push(Step::new(create, Lock::ShareUpdateExclusive, BUILDS).note(format!(
                    "outside of a transaction; waits for every older transaction; where it fails it leaves an invalid \
                     index: {leftover}, and repeat this step"
                )));
                name
            }
        };
        let quoted = quote_ident(name);
        let by_name = attach.replacen(
            &format!("USING INDEX {quoted}"),
            &format!("USING INDEX {}", quote_ident(index)),
            1,
        );
        out.push(Step::new(by_name, Lock::AccessExclusive, ""));
        out.extend(last);
        Some(out)
    }
}
