//! Takes back what steps have made, as far as anybody can: in one transaction, under one short lock.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::catalog::{self, Column, Constraint, Index, Table};
use crate::change::Request;
use crate::change::trial::{Does, Lock, PartKey, PartReference};
use crate::cutover::{self, Before, InPlace, Limits, Ready, Sent, Work};
use crate::error::{Error, Result};
use crate::migration::store::{self, Stored, StoredStep};
use crate::pg::{Connector, QualifiedName, Session, quote_ident, shell_word};
use crate::shadow::set_role;
use crate::telemetry::Meter;

/// What became of the steps.
#[derive(Debug, Default)]
pub struct Undone {
    /// What took them back.
    pub undone: Vec<String>,
    /// Steps that were made and stay: what was before them is not known here.
    pub left: Vec<String>,
}

/// Takes back the steps of a migration that nobody else runs.
pub(in crate::migration) async fn undo(
    connector: &Connector,
    session: &Session,
    stored: &Stored,
    epoch: i64,
    meter: &Meter,
) -> Result<Undone> {
    let steps = store::steps(session, stored.id).await?;
    let now = catalog::read(session, stored.source_oid).await?;
    let Some(now) = now else { return Ok(Undone::default()) };
    if now.qualified() != stored.names.source {
        return Err(renamed(&stored.names.source, &now.qualified()));
    }
    let parts = parts_of(session, &steps, &now).await?;
    let back = Back::of(&steps, &now, &parts);
    for name in &back.others {
        meter.note(format!(
            "index {name:?} is not the one that the step builds: somebody made it, and it stays"
        ));
    }
    let (undone, left) = (back.statements(&now.qualified()), back.left.clone());
    if !undone.is_empty() {
        let work = Undo { table: &now, steps: &steps, migration: stored.id, epoch };
        let in_place = InPlace {
            connector,
            role: &format!("{}/", stored.id),
            table: &now,
            work: &work,
            meter,
            limits: &Limits::default,
            window: None,
            held: &|| None,
            before: &Nobody,
            sent: &Sent::default(),
        };
        in_place.run().await.map_err(|e| cannot(e, &now.qualified()))?;
    }
    Ok(Undone { undone, left })
}

/// It may be another table that has its number, so it is left alone; the steps that are made are not forgotten.
fn renamed(was: &QualifiedName, now: &QualifiedName) -> Error {
    Error::failed(format!("{was} is called {now} now"))
        .state("Nothing was taken back, and the state is kept: what the steps have made is in the table")
        .next(format!("Give it its name back, then `pgwraith abort {}`", shell_word(&was.to_string())))
}

fn cannot(e: Error, table: &QualifiedName) -> Error {
    let word = shell_word(&table.to_string());
    e.context("taking back what was done in place")
        .state("Nothing was taken back, and the state is kept")
        .next(format!("When that is mended: `pgwraith abort {word}`"))
}

/// The partitions, where something is built in each.
async fn parts_of(session: &Session, steps: &[StoredStep], now: &Table) -> Result<Vec<Table>> {
    let mut out = Vec::new();
    let of_parts = |does: &Does| does.built().is_some() || does.referring().is_some();
    if steps.iter().any(|stored| of_parts(&stored.step.does)) {
        for part in now.leaves() {
            out.extend(catalog::read(session, part.oid).await?);
        }
    }
    Ok(out)
}

/// What takes steps back.
#[derive(Debug, Default, PartialEq)]
struct Back {
    clauses: Vec<String>,
    /// Indexes that are no constraints.
    indexes: Vec<String>,
    /// What is of partitions alone, as statements.
    of_parts: Vec<String>,
    /// Tables that foreign keys among that refer to.
    referred: Vec<u32>,
    /// Constraints of the table that are a NOT NULL, since 18, and go.
    not_null: Vec<String>,
    /// And what of them stays in partitions, as statements.
    stays: Vec<String>,
    left: Vec<String>,
    /// Indexes of somebody else that have the names of ours.
    others: Vec<String>,
}

impl Back {
    /// The last step first; by what is there: also of a step that was cut off.
    fn of(steps: &[StoredStep], now: &Table, parts: &[Table]) -> Back {
        let mut back = Back::default();
        for stored in steps.iter().rev().filter(|stored| stored.began) {
            back.step(stored, now);
        }
        let attached = steps.iter().filter(|stored| stored.done);
        let attached: Vec<&PartKey> = attached.filter_map(|s| s.step.does.attached()).collect();
        let began = steps.iter().filter(|stored| stored.began);
        let mut built: Vec<&PartKey> = began.filter_map(|s| s.step.does.built()).collect();
        built.dedup();
        // With the table's constraint those of all partitions go.
        for key in built.into_iter().filter(|key| !attached.contains(key)) {
            back.of_parts.extend(parts.iter().filter_map(|part| of_part(part, key)));
        }
        back.refer(steps, parts);
        let stays = |part: &Table| -> Vec<String> {
            let ours = back.not_null.iter().filter(|name| not_null_of(part, name).is_some());
            ours.map(|name| stays_not_null(&part.qualified(), name)).collect()
        };
        back.stays = parts.iter().flat_map(stays).collect();
        back
    }

    /// Takes back the foreign keys of partitions, where the table's own, with which they go, has not taken them over.
    fn refer(&mut self, steps: &[StoredStep], parts: &[Table]) {
        let began = steps.iter().filter(|stored| stored.began);
        let mut made: Vec<&PartReference> = began.filter_map(|s| s.step.does.referring()).collect();
        made.dedup();
        let taken_over = |key: &PartReference| {
            let of = |does: &Does| matches!(does, Does::AttachReference { key: its } if its == key);
            steps.iter().any(|stored| stored.done && of(&stored.step.does))
        };
        for key in made.into_iter().filter(|key| !taken_over(key)) {
            for part in parts {
                if let Some(to) = key.made_in(part) {
                    self.of_parts.push(key.drop(&part.qualified()));
                    self.referred.push(to);
                }
            }
        }
        self.referred.sort_unstable();
        self.referred.dedup();
    }

    fn step(&mut self, stored: &StoredStep, now: &Table) {
        let constraint = |name: &str| {
            now.constraints.iter().any(|c| c.name == name)
                || now.foreign_keys.iter().any(|k| k.name == name && k.from.oid == now.oid)
        };
        let not_null_constraint =
            |name: &str| not_null_of(now, name).and_then(|c| c.attnums.first().copied());
        match &stored.step.does {
            Does::BuildIndex { name, definition, unique } => {
                let index = now.indexes.iter().find(|index| index.name == *name);
                let is_it = |i: &Index| i.definition == *definition && i.unique == *unique;
                match index {
                    // With its constraint it goes anyway.
                    Some(index) if now.constraint_of(index).is_some() => {}
                    Some(index) if is_it(index) => self.indexes.push(name.clone()),
                    Some(_) => self.others.push(name.clone()),
                    None => {}
                }
            }
            // Each of the others is a transaction, and knows whether it is done.
            _ if !stored.done => {}
            Does::AddColumn { column, attnum } => {
                let there = column_of(now, column, *attnum);
                let drop = |c: &Column| format!("DROP COLUMN {}", quote_ident(&c.name));
                self.clauses.extend(there.map(drop));
            }
            // Since 18 the NOT NULL of a column is a constraint.
            Does::AddConstraint { name }
                if not_null_constraint(name).is_some_and(|n| self.is_needed(n, now)) =>
            {
                self.left.push(stored.step.sql.clone());
            }
            Does::AddConstraint { name }
            | Does::UseIndex { name, own_index: false }
            | Does::AttachKey { name, .. }
                if constraint(name) =>
            {
                self.not_null.extend(not_null_of(now, name).map(|c| c.name.clone()));
                self.clauses.push(drop_constraint(name));
            }
            Does::AttachReference { key } if constraint(key.name()) => {
                self.clauses.push(drop_constraint(key.name()));
            }
            Does::SetNotNull { column, attnum } => match column_of(now, column, *attnum) {
                Some(c) if c.not_null && self.is_needed(c.attnum, now) => {
                    self.left.push(stored.step.sql.clone());
                }
                Some(c) if c.not_null => {
                    let column = quote_ident(&c.name);
                    self.clauses.push(format!("ALTER COLUMN {column} DROP NOT NULL"));
                }
                _ => {}
            },
            // The index was the user's own, and would go with the constraint.
            Does::Typed | Does::UseIndex { own_index: true, .. } => {
                self.left.push(stored.step.sql.clone());
            }
            Does::Fill { .. }
            | Does::Vacuum
            | Does::AddConstraint { .. }
            | Does::Validate { .. }
            | Does::BuildPart { .. }
            | Does::AttachKey { .. }
            | Does::ReferPart { .. }
            | Does::AttachReference { .. }
            | Does::DropHelper { .. }
            | Does::UseIndex { .. } => {}
        }
    }

    /// Whether PostgreSQL has the column stay NOT NULL: for a key or an identity that was typed, and stays. What of ours
    /// needs it came later, so that it is taken back by now.
    fn is_needed(&self, attnum: i16, now: &Table) -> bool {
        let goes = |index: &Index| {
            let constraint = now.constraint_of(index).map(|c| drop_constraint(&c.name));
            constraint.is_some_and(|drop| self.clauses.contains(&drop))
                || self.indexes.contains(&index.name)
        };
        let needs = |index: &&Index| {
            (index.primary || index.replica_identity) && index.attnums.contains(&attnum)
        };
        now.column(attnum).is_some_and(|column| !column.identity.is_empty())
            || now.indexes.iter().filter(needs).any(|index| !goes(index))
    }

    fn statements(&self, table: &QualifiedName) -> Vec<String> {
        let alter = self.clauses.iter().map(|clause| format!("ALTER TABLE {table} {clause}"));
        let drop = self.indexes.iter().map(|name| format!("DROP INDEX {}", table.sibling(name)));
        // First: NOT NULL of the table is not taken from below a key of a partition. And with a column its indexes go.
        let all = self.of_parts.iter().cloned().chain(drop).chain(alter);
        all.chain(self.stays.iter().cloned()).collect()
    }
}

/// Takes back what was built in a partition, if it was.
fn of_part(part: &Table, key: &PartKey) -> Option<String> {
    let (table, name) = (part.qualified(), key.name(&part.name));
    let index = part.indexes.iter().find(|index| index.name == name && key.is_of(index))?;
    match part.constraint_of(index) {
        Some(_) => Some(format!("ALTER TABLE {table} {}", drop_constraint(&name))),
        None => Some(format!("DROP INDEX {}", table.sibling(&name))),
    }
}

/// Since 18, to make a partition's index its key makes the NOT NULL that it has by the table's its own as well, under the
/// table's name for it: then it stays when that goes. One that was its own before has a name of its own.
fn stays_not_null(part: &QualifiedName, name: &str) -> String {
    format!("ALTER TABLE {part} DROP CONSTRAINT IF EXISTS {}", quote_ident(name))
}

/// By its number: since it was made it may have another name, and its name another column.
fn column_of<'a>(now: &'a Table, name: &str, attnum: Option<i16>) -> Option<&'a Column> {
    match attnum {
        Some(attnum) => now.column(attnum),
        None => now.column_named(name),
    }
}

fn not_null_of<'a>(table: &'a Table, name: &str) -> Option<&'a Constraint> {
    table.constraints.iter().find(|c| c.kind == 'n' && c.name == name)
}

fn drop_constraint(name: &str) -> String {
    format!("DROP CONSTRAINT {}", quote_ident(name))
}

struct Undo<'a> {
    table: &'a Table,
    steps: &'a [StoredStep],
    migration: i64,
    epoch: i64,
}

impl Work for Undo<'_> {
    fn prepare<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Ready>> {
        let ready = async {
            store::still_mine(session, self.migration, self.epoch).await?;
            // Whoever goes on before the state is gone begins with the first step.
            store::unmake_steps(session, self.migration).await?;
            let now = catalog::read(session, self.table.oid).await?;
            let now = now.ok_or_else(|| Error::failed("the table is gone"))?;
            let parts = parts_of(session, self.steps, &now).await?;
            let back = Back::of(self.steps, &now, &parts);
            let request = Request { alters: back.clauses.clone(), ..Request::default() };
            let mut others = match request.alters.is_empty() {
                true => {
                    session.batch(&set_role(Some(&now.owner))).await?;
                    Vec::new()
                }
                false => cutover::still_instant(session, self.table, &request).await?.others,
            };
            others.extend(&back.referred);
            let statements = back.statements(&now.qualified());
            Ok(Ready { lock: Lock::AccessExclusive, others, statements })
        };
        ready.boxed()
    }
}

/// An abort asks nobody.
struct Nobody;

impl Before for Nobody {
    fn minds(&self) -> BoxFuture<'_, Option<String>> {
        async { None }.boxed()
    }
}
