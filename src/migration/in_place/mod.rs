//! The careful way: the table itself is altered, in steps of which none keeps anybody out for long.
//!
//! The steps are those that `plan` prints: typed, tried on an empty clone, and put down in the state before the
//! first of them. A step that is a transaction notes in it that it is done, so that a COMMIT without an answer is
//! looked up and not guessed; what is made outside of one (an index built CONCURRENTLY) is looked for in the
//! catalogs. No publication, slot or shadow is needed: nobody has to follow what changes.

mod build;
mod end;
mod fill;
mod long;
mod parts;
mod references;
mod short;
mod undo;
mod vacuum;
mod violating;
mod whole;
mod work;

use std::collections::HashSet;

use serde_json::json;

use super::hooked::Caller;
use super::run::{FIRST_EPOCH, Run};
use super::stretch::Stretch;
use super::{Phase, store};
use crate::catalog::{self, Table};
use crate::change::Request;
use crate::change::trial::{self, Does, Step, Trial, Way};
use crate::cutover::Altered;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::hooks::Hook;
use crate::pg::{QualifiedName, Session, quote_ident, shell_word};
use crate::preflight::{self, Severity};
use crate::shadow::Names;
use crate::telemetry::Sample;

pub use undo::Undone;
pub(super) use undo::undo;

/// A table that was altered in steps.
#[derive(Debug, serde::Serialize)]
pub struct Changed {
    pub table: String,
    pub way: Way,
    /// How many there were; earlier runs may have made some of them.
    pub steps: usize,
    /// What this run made.
    pub made: Vec<Made>,
}

/// A step that was made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Made {
    pub number: i32,
    pub sql: String,
    pub seconds: f64,
    /// Under a lock that keeps others out: the attempts at it, and how long it was held.
    pub lock: Option<Altered>,
    /// That were filled.
    pub rows: Option<u64>,
}

/// What came of a change in place.
pub enum InPlaceDone {
    /// At once.
    Altered(Altered),
    Changed(Changed),
}

impl Run<'_> {
    /// Alters the table itself, at once or in careful steps.
    pub async fn change_in_place(&self, request: &Request) -> Result<InPlaceDone> {
        let (table, trial) = self.supervisor.guard(self.look(request)).await?;
        if trial.verdict.way == Way::Instant {
            return self.alter_at_once(&table, &trial, request).await.map(InPlaceDone::Altered);
        }
        match self.begin_in_place(request, &table, &trial).await {
            Ok(migration) => {
                self.go_on_in_place(migration, FIRST_EPOCH).await.map(InPlaceDone::Changed)
            }
            Err(error) => self.ended(None, error).await,
        }
    }

    /// What is in the way is told; nobody copies instead.
    async fn look(&self, request: &Request) -> Result<(Table, Trial)> {
        request.refuse_by_name()?;
        let control = self.connector.session("control").await?;
        let oid = catalog::find(&control, self.table).await?;
        let gone = || Error::usage(format!("{} is not there any more", self.table));
        let table = catalog::read(&control, oid).await?.ok_or_else(gone)?;
        let names = Names::of(&table.qualified());
        let findings = preflight::in_place(&self.subject(&control, &table, &names)).await?;
        for finding in findings.iter().filter(|f| f.severity != Severity::Refuse) {
            self.meter.note(format!("{}: {}. {}", finding.check, finding.what, finding.mend));
        }
        preflight::refuse(&findings, self.table).map_or(Ok(()), Err)?;
        for invalid in catalog::invalid_indexes(&control, oid).await? {
            let name = table.qualified();
            self.meter.note(format!(
                "{name} has {invalid}, which is nobody's here and stays: DROP INDEX CONCURRENTLY"
            ));
        }
        let trial = trial::observe(&control, &table, request).await?;
        refuse_without_a_way(&table, &trial, self.table)?;
        refuse_taken_names(&control, &table, &trial.steps).await?;
        refuse_taken_keys(&control, &table, &trial.steps).await?;
        Ok((table, trial))
    }

    async fn begin_in_place(&self, request: &Request, table: &Table, trial: &Trial) -> Result<i64> {
        if self.settings.postponed {
            return Err(Error::usage("--postpone-cutover: a change in place has no swap that could be postponed")
                .state("Nothing was touched")
                .next("Run it when it is wanted, perhaps with --cutover-window for the steps that take locks"));
        }
        let caller = Caller::of(self);
        let agreed = self.supervisor.guard(caller.before_start()).await?;
        self.meter.note(format!(
            "the change is made {} in {} steps: {}",
            trial.verdict.way.as_str(),
            trial.steps.len(),
            trial.verdict.why
        ));
        self.meter.tell(Sample::Rows(table.estimated_rows.max(0.0) as u64));
        let control = self.supervisor.guard(self.connector.session("control")).await?;
        let rows = Some(table.estimated_rows as i64).filter(|rows| *rows > 0);
        let names = Names::of(&table.qualified());
        let at = (Phase::InPlace.as_str(), rows);
        let begin = async {
            let migration =
                store::begin(&control, table.oid, &names, request, self.options, at).await?;
            failpoint!("in place begun");
            store::record_steps(&control, migration, FIRST_EPOCH, &trial.steps).await?;
            failpoint!("steps recorded");
            Ok(migration)
        };
        let migration = self.put_down(begin).await?;
        if let Some(told) = agreed {
            caller.keep(migration, &told).await;
        }
        Ok(migration)
    }

    /// Makes what is left of the steps.
    pub(super) async fn go_on_in_place(&self, migration: i64, mut epoch: i64) -> Result<Changed> {
        let mut made = Vec::new();
        let stretch = async |epoch, _again: bool| {
            let supervisor = self.supervisor.next_stretch();
            let stretch = Stretch { run: self, supervisor, migration, epoch, recover: false };
            stretch.alter(&mut made).await
        };
        let done = self.stretches(migration, &mut epoch, stretch).await;
        let caller = Caller::of(self);
        match done {
            Ok(changed) => {
                let changed = Changed { made, ..changed };
                let locks = || changed.made.iter().filter_map(|step| step.lock.as_ref());
                let most = |of: fn(&Altered) -> f64| locks().map(of).fold(0.0, f64::max);
                let facts = json!({
                    "retired": null, "attempts": locks().map(|lock| lock.attempts).sum::<u32>(),
                    "lock_held_ms": most(|lock| lock.lock_held_ms), "stall_ms": most(|lock| lock.stall_ms),
                });
                let _ = caller.call(Hook::AfterCutover, Some(migration), facts).await;
                Ok(changed)
            }
            Err(error) => {
                let error = self.end_in_place(migration, epoch, error).await;
                self.ended(Some(migration), error).await
            }
        }
    }
}

/// By name, and with the ways that there are.
fn refuse_without_a_way(found: &Table, trial: &Trial, table: &str) -> Result<()> {
    let refused = |what: String| Err(Error::new(Kind::Refused, what).state("Nothing was touched"));
    let word = shell_word(table);
    if trial.verdict.way == Way::ShadowCopy {
        let why = &trial.verdict.why;
        return refused(format!("{table} cannot be changed so in place with care: {why}")).map_err(
            |e| {
                e.next(format!(
                    "`pgwraith run {word}` without --in-place makes the change by a copy"
                ))
            },
        );
    }
    let valueless = trial.steps.iter().find_map(|step| match &step.does {
        Does::Fill { column, by_default: false, .. } => Some(column),
        _ => None,
    });
    let refused_by = trial.steps.iter().find_map(|step| match &step.does {
        Does::Fill { refused_by, .. } => refused_by.first(),
        _ => None,
    });
    if let (None, Some(name)) = (valueless, refused_by) {
        return refused(format!(
            "rows would be filled by UPDATE, which PostgreSQL refuses for a row that violates {name:?}; as that is NOT VALID there may be such"
        ))
        .map_err(|e| {
            e.next(format!(
                "ALTER TABLE {} VALIDATE CONSTRAINT {} before: it keeps nobody out, and says whether there are; where the constraint comes with \
                 this change, say it behind the column. Or `pgwraith run {word}` without --in-place makes the change by a copy",
                found.qualified(),
                quote_ident(name)
            ))
        });
    }
    match valueless {
        None => Ok(()),
        Some(column) => refused(format!(
            "the new column {column:?} is NOT NULL, and has no value for the rows that are there"
        ))
        .map_err(|e| {
            e.next("Give it a DEFAULT, which may be another value for each row; or have a copy fill it, with --map instead of --in-place")
        }),
    }
}

/// Whatever foreign key of a partition has the name later on is ours to take back.
async fn refuse_taken_keys(session: &Session, table: &Table, steps: &[Step]) -> Result<()> {
    let made = steps.iter().filter_map(|step| match &step.does {
        Does::ReferPart { part, key } => Some((*part, key.name())),
        _ => None,
    });
    let (parts, names): (Vec<u32>, Vec<&str>) = made.unzip();
    let sql = "SELECT k.conrelid, k.conname::pg_catalog.text FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.text[])) AS w (part, name) \
               JOIN pg_catalog.pg_constraint k ON k.conrelid = w.part AND k.conname = w.name LIMIT 1";
    let Some(row) = session.maybe(sql, &[&parts, &names]).await? else { return Ok(()) };
    let part = table.parts.iter().find(|part| part.oid == row.get::<_, u32>(0));
    let part = part.map(|part| part.qualified().to_string()).unwrap_or_default();
    let what = format!("partition {part} has a constraint {:?}", row.get::<_, &str>(1));
    Err(Error::new(Kind::Refused, what)
        .state("Nothing was touched")
        .next("Name the foreign key otherwise: ADD CONSTRAINT name …; one that is like it is taken over, whatever it is called"))
}

/// An index keeps the name that PostgreSQL gave it beside those of the table: nobody else may have it. So whatever
/// has it later on, and is invalid, is what a build of ours has left.
async fn refuse_taken_names(session: &Session, table: &Table, steps: &[Step]) -> Result<()> {
    let built = steps.iter().filter_map(|step| match &step.does {
        Does::BuildIndex { name, .. } | Does::AttachKey { name, .. } => {
            Some((table.schema.clone(), name.clone()))
        }
        Does::BuildPart { part, key } => {
            let part = table.parts.iter().find(|p| p.oid == *part)?;
            Some((part.schema.clone(), key.name(&part.name)))
        }
        _ => None,
    });
    let (schemas, names): (Vec<String>, Vec<String>) = built.unzip();
    let mut seen = HashSet::new();
    if let Some((_, twice)) = schemas.iter().zip(&names).find(|name| !seen.insert(*name)) {
        return Err(Error::new(Kind::Refused, format!("two indexes would be called {twice:?}"))
            .state("Nothing was touched")
            .next("Name the constraints: ADD CONSTRAINT name …"));
    }
    let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS w (schema, name) \
               JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name";
    let Some(row) = session.query(sql, &[&schemas, &names]).await?.into_iter().next() else {
        return Ok(());
    };
    let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
    Err(Error::new(
        Kind::Refused,
        format!("the index would be called {name}, and there is one of that name"),
    )
    .state("Nothing was touched")
    .next("Name the constraint: ADD CONSTRAINT name …; that of a partition is named by PostgreSQL: rename what has the name"))
}
