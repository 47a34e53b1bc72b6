//! The same change in steps of which none keeps anybody out for long: pure.

use super::lock::Lock;
use super::observed::{Gain, Observed};
use super::part_key::PartKey;
use super::part_reference::PartReference;
use super::step::{Does, Step};
use crate::catalog::{Column, Constraint, ForeignKey, Part, Table};
use crate::change::own_key;
use crate::pg::name::free_name;
use crate::pg::{QualifiedName, quote_ident};
use crate::shadow::{added_later, index_plans};

/// Only a constraint is looked at later than its rows are written.
const IMMEDIATE: &str = "the constraint is DEFERRABLE, its index alone is not: until it becomes the constraint rows that exchange their \
    values within a statement or transaction are refused";

/// Makes the steps of one clause.
pub(super) struct Careful<'a> {
    pub(super) table: &'a QualifiedName,
    pub(super) version: i32,
    /// Before the clause and after it, both under the source's name.
    pub(super) before: &'a Table,
    pub(super) after: &'a Table,
    pub(super) observed: &'a Observed,
    /// What is changed; the others are an ordinary table, also where that is none.
    pub(super) source: &'a Table,
    /// What rows are divided by, at whatever level.
    pub(super) divided_by: &'a [String],
}

impl Careful<'_> {
    /// None where there are none.
    pub(super) fn steps(&self) -> Option<Vec<Step>> {
        let Observed { gains, rewritten, moved, others, .. } = self.observed;
        if *moved || others.iter().any(|o| o.scanned) || !self.columns_stay() {
            return None;
        }
        let known = |c: &&Column| self.before.column(c.attnum).is_some();
        let new: Vec<&Column> = self.after.columns.iter().filter(|c| !known(c)).collect();
        let filled = match (rewritten, new.as_slice()) {
            (true, [column]) if self.rewritten_for(column) => Some(*column),
            (true, _) => return None,
            (false, _) => None,
        };
        if (gains.is_empty() && filled.is_none()) || !self.all_built_is_gained(*rewritten) {
            return None;
        }
        let mut out = match filled {
            Some(column) => self.fill(column),
            None => new.into_iter().map(|c| self.add_column(c)).collect(),
        };
        // A primary key proves its columns itself.
        let by_key = |column: &String| {
            gains
                .iter()
                .any(|gain| matches!(gain, Gain::Key { nullable, .. } if nullable.contains(column)))
        };
        let twice = |gain: &&Gain| matches!(gain, Gain::NotNull { column } if by_key(column));
        // What a new column's rows have as values comes before what is asked of those.
        let (empty, rest): (Vec<&Gain>, Vec<&Gain>) = gains
            .iter()
            .filter(|gain| !twice(gain))
            .partition(|gain| matches!(gain, Gain::NoValue { .. }));
        for gain in empty.into_iter().chain(rest) {
            out.extend(self.gain(gain)?);
        }
        Some(out)
    }

    /// Whether the table was written anew for nothing but this new column, whose default gives each row a value
    /// of its own.
    fn rewritten_for(&self, column: &Column) -> bool {
        let stored = |table: &Table| {
            let Table { persistence, access_method, tablespace, sequences, .. } = table.clone();
            (persistence, access_method, tablespace, sequences.len())
        };
        column.default.is_some()
            && !column.default_names_table
            && column.generated.is_empty()
            && column.identity.is_empty()
            // A domain's checks are looked at for every row.
            && column.type_kind != 'd'
            && stored(self.before) == stored(self.after)
            && own_key(self.before).is_ok()
    }

    /// A table that is written anew has its indexes built anew too.
    fn all_built_is_gained(&self, rewritten: bool) -> bool {
        let keys = self.observed.gains.iter().filter_map(|gain| match gain {
            Gain::Key { name, .. } => Some(name),
            _ => None,
        });
        let had = self.before.indexes.iter().map(|index| &index.name).filter(|_| rewritten);
        let expected: Vec<&String> = keys.chain(had).collect();
        self.observed.built.iter().all(|index| expected.contains(&index))
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

    fn alter(&self, what: impl Into<String>, lock: Lock, does: Does) -> Step {
        Step::alter(self.table, what, lock, does)
    }

    fn add_column(&self, column: &Column) -> Step {
        let mut what = defined(column);
        match (&column.default, column.generated.as_str()) {
            (Some(default), "v") => {
                what.push_str(&format!(" GENERATED ALWAYS AS ({default}) VIRTUAL"));
            }
            (Some(default), _) => what.push_str(&format!(" DEFAULT {default}")),
            (None, _) => {}
        }
        // With a default that is the same for all rows, NOT NULL is known to hold.
        if column.not_null && column.default.is_some() {
            let named = self.not_null_name(column.attnum);
            let named = named.map(|name| format!(" CONSTRAINT {}", quote_ident(name)));
            what.push_str(&format!("{} NOT NULL", named.unwrap_or_default()));
        }
        let does = Does::AddColumn { column: column.name.clone(), attnum: None };
        self.alter(what, Lock::AccessExclusive, does)
    }

    /// The column without a value, its default for the rows to come, and then value after value.
    fn fill(&self, column: &Column) -> Vec<Step> {
        let name = quote_ident(&column.name);
        let default = column.default.as_deref().unwrap_or("NULL");
        let add = format!("{}, ALTER COLUMN {name} SET DEFAULT {default}", defined(column));
        let does = Does::AddColumn { column: column.name.clone(), attnum: None };
        let mut out = vec![
            self.alter(add, Lock::AccessExclusive, does)
                .note("new rows have their value from here on"),
            Step::fill(self.table, &column.name, true, self.unproven()),
            Step::vacuum(self.table),
        ];
        if column.not_null {
            out.extend(self.not_null(&column.name));
        }
        out
    }

    /// What is looked at whenever a row is written, and was not when it was added.
    fn unproven(&self) -> Vec<String> {
        let refuses = |c: &&Constraint| added_later(c) && !c.definition.ends_with("NOT ENFORCED");
        self.before.constraints.iter().filter(refuses).map(|c| c.name.clone()).collect()
    }

    fn gain(&self, gain: &Gain) -> Option<Vec<Step>> {
        match gain {
            // Before 18 no partitioned table has one that is NOT VALID.
            Gain::ForeignKey { name, definition }
                if self.source.is_partitioned() && self.version < 180_000 =>
            {
                self.reference_of_parts(name, definition)
            }
            Gain::Key { name, nullable, index, .. } if self.source.is_partitioned() => {
                match index {
                    Some(_) => None,
                    None => self.key_of_parts(name, nullable),
                }
            }
            Gain::NotNull { column } => Some(self.not_null(column)),
            Gain::NoValue { column, .. } => {
                let fill = Step::fill(self.table, column, false, self.unproven());
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
        let add = format!("ADD CONSTRAINT {} {definition} NOT VALID", quote_ident(name));
        let does = Does::AddConstraint { name: name.to_owned() };
        vec![
            self.alter(add, lock, does).note("from here on it holds for what is written"),
            self.validate(name),
        ]
    }

    fn validate(&self, name: &str) -> Step {
        let what = format!("VALIDATE CONSTRAINT {}", quote_ident(name));
        let does = Does::Validate { name: name.to_owned() };
        self.alter(what, Lock::ShareUpdateExclusive, does)
            .reads()
            .note("fails where a row does not fulfil it: correct the row and repeat this step")
    }

    /// The name that PostgreSQL gave the NOT NULL of a column: since 18 it is a constraint.
    fn not_null_name(&self, attnum: i16) -> Option<&str> {
        let all = self.after.constraints.iter();
        all.filter(|c| c.kind == 'n' && c.attnums == [attnum]).map(|c| c.name.as_str()).next()
    }

    fn not_null(&self, column: &str) -> Vec<Step> {
        let quoted = quote_ident(column);
        let exclusive = Lock::AccessExclusive;
        let attnum = self.after.column_named(column).map(|c| c.attnum);
        let given = attnum.and_then(|n| self.not_null_name(n)).map(str::to_owned);
        let taken = |name: &str| {
            let mut all = self.before.constraints.iter().chain(&self.after.constraints);
            all.any(|c| c.name == name)
        };
        let name = given.unwrap_or_else(|| {
            free_name(&format!("{}_{column}", self.table.name), "_not_null", taken)
        });
        let does = Does::AddConstraint { name: name.clone() };
        let constraint = quote_ident(&name);
        // Since 18 NOT NULL may be NOT VALID itself.
        if self.version >= 180_000 {
            let add = format!("ADD CONSTRAINT {constraint} NOT NULL {quoted} NOT VALID");
            return vec![self.alter(add, exclusive, does), self.validate(&name)];
        }
        let check = format!("ADD CONSTRAINT {constraint} CHECK ({quoted} IS NOT NULL) NOT VALID");
        let set = Does::SetNotNull { column: column.to_owned(), attnum: None };
        let set = self.alter(format!("ALTER COLUMN {quoted} SET NOT NULL"), exclusive, set);
        let drop = Does::DropHelper { name: name.clone() };
        vec![
            self.alter(check, exclusive, does),
            self.validate(&name),
            set.note("the check proves it: no row is read"),
            self.alter(format!("DROP CONSTRAINT {constraint}"), exclusive, drop),
        ]
    }

    /// That the columns have values; and what is left to do about that once the key is there.
    fn proven(&self, nullable: &[String]) -> (Vec<Step>, Vec<Step>) {
        let (mut out, mut last) = (Vec::new(), Vec::new());
        for column in nullable {
            let mut proof = self.not_null(column);
            if self.version < 180_000 {
                last.extend(proof.pop());
            }
            out.extend(proof);
        }
        (out, last)
    }

    /// An index of a partitioned table cannot be built CONCURRENTLY, those of its partitions can; and a key of the table
    /// takes over the like keys that it finds in them.
    fn key_of_parts(&self, name: &str, nullable: &[String]) -> Option<Vec<Step>> {
        let index = self.after.indexes.iter().find(|index| index.name == name)?;
        let constraint = self.after.constraint_of(index)?;
        let usual = |part: &Part| part.kind == 'r' && part.owner == self.source.owner;
        if index.tablespace.is_some() || !self.source.leaves().all(usual) {
            return None;
        }
        let named = |n: &i16| self.after.column(*n).map(|column| column.name.clone());
        let columns: Vec<String> = index.attnums.iter().map(named).collect::<Option<_>>()?;
        // PostgreSQL refuses such a key, and what this is tried on is not divided.
        if !self.divided_by.iter().all(|column| columns.contains(column)) {
            return None;
        }
        let deferrable = match (constraint.deferrable, constraint.deferred) {
            (false, _) => "",
            (true, false) => " DEFERRABLE",
            (true, true) => " DEFERRABLE INITIALLY DEFERRED",
        };
        let key = PartKey {
            primary: constraint.kind == 'p',
            columns,
            definition: index.definition.clone(),
            deferrable: deferrable.to_owned(),
        };
        let (mut out, last) = self.proven(nullable);
        let mut builds: Vec<Step> =
            self.source.leaves().map(|part| Step::build_part(part, &key)).collect();
        if constraint.deferrable {
            builds.iter_mut().for_each(|build| build.note = format!("{}; {IMMEDIATE}", build.note));
        }
        out.extend(builds);
        let add = format!("ADD CONSTRAINT {} {}", quote_ident(name), constraint.definition);
        let does = Does::AttachKey { name: name.to_owned(), key };
        out.push(self.alter(add, Lock::AccessExclusive, does).note(
            "takes over the constraints of the partitions: no row is read; a partition that came meanwhile is built before",
        ));
        out.extend(last);
        Some(out)
    }

    /// A foreign key of the table takes over the like ones that it finds in its partitions. One that refers to the table
    /// itself would be each partition's to all the others.
    fn reference_of_parts(&self, name: &str, definition: &str) -> Option<Vec<Step>> {
        let to_itself = |key: &&ForeignKey| key.name == name && key.to.qualified() == *self.table;
        let usual = |part: &Part| part.kind == 'r' && part.owner == self.source.owner;
        if self.after.foreign_keys.iter().any(|key| to_itself(&key))
            || !self.source.leaves().all(usual)
        {
            return None;
        }
        let key = PartReference { name: name.to_owned(), definition: definition.to_owned() };
        let others = &self.observed.others;
        let refer = |part| Step::refer_part(part, &key, others);
        let mut out: Vec<Step> = self.source.leaves().map(refer).collect();
        let add = format!("ADD CONSTRAINT {} {definition}", quote_ident(name));
        let does = Does::AttachReference { key: key.clone() };
        let mut attach = self.alter(add, Lock::ShareRowExclusive, does).note(
            "takes over the foreign keys of the partitions: no row is read; a partition that came meanwhile has its own before",
        );
        attach.others = others.clone();
        out.push(attach);
        Some(out)
    }

    fn key(&self, name: &str, nullable: &[String], index: Option<&str>) -> Option<Vec<Step>> {
        let plans = index_plans(self.after, self.table, str::to_owned);
        let plan = plans.into_iter().find(|plan| plan.name == name)?;
        let (create, attach) = (plan.create_concurrently?, plan.attach?);
        if plan.index.tablespace.is_some() {
            return None;
        }
        let (mut out, last) = self.proven(nullable);
        let own_index = index.is_some();
        let index = match index {
            Some(index) => index,
            None => {
                let mut build = Step::build(create, &self.table.sibling(name), &plan.index);
                if plan.constraint.is_some_and(|c| c.deferrable) {
                    build.note = format!("{}; {IMMEDIATE}", build.note);
                }
                out.push(build);
                name
            }
        };
        let quoted = quote_ident(name);
        let by_name = attach.replacen(
            &format!("USING INDEX {quoted}"),
            &format!("USING INDEX {}", quote_ident(index)),
            1,
        );
        let clauses = by_name.strip_prefix(&format!("ALTER TABLE {} ", self.table))?;
        let does = Does::UseIndex { name: name.to_owned(), own_index };
        out.push(self.alter(clauses, Lock::AccessExclusive, does));
        out.extend(last);
        Some(out)
    }
}

/// Adds it, with neither value nor default.
fn defined(column: &Column) -> String {
    let mut what = format!("ADD COLUMN {} {}", quote_ident(&column.name), column.type_sql);
    if let Some(collation) = &column.collation {
        what.push_str(&format!(" COLLATE {collation}"));
    }
    what
}
