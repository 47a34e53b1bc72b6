//! The empty clone that a change is tried on.

use crate::catalog::{self, Grant, Statistics, Table, meaning};
use crate::error::{Error, Kind, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{QualifiedName, Session, quote_ident};
use crate::shadow::{self, Privileges, Step};

/// The clone of a table, in a schema of its own.
pub(super) struct Clone {
    pub(super) name: QualifiedName,
    pub(super) oid: u32,
}

/// Makes it, like the source in everything the model knows; the session acts as the table's owner
/// from here on.
pub(super) async fn make(session: &Session, source: &Table) -> Result<Clone> {
    let (clone, now) = bare(session, source).await?;
    dress(session, source, &clone.name, &now).await?;
    same_privileges(session, source, &clone).await?;
    same_meaning(session, source, &clone).await?;
    Ok(clone)
}

/// Gives the clone called `name`, which is `now` so, everything of `table` that is neither its shape nor its rows.
pub(super) async fn dress(
    session: &Session,
    table: &Table,
    name: &QualifiedName,
    now: &Table,
) -> Result<()> {
    let owner = quote_ident(&table.owner);
    let wanted = as_clone(table, name);
    let mut steps = shadow::settings(now, &wanted);
    steps.extend(shadow::grant_steps(
        &format!("TABLE {name}"),
        &table.owner,
        &Privileges::on_table(now),
        &Privileges::on_table(&wanted),
    ));
    // The owner may have taken a privilege from himself that it takes to put a trigger or a foreign key
    // on: at the swap, too, the table's own privileges come last.
    let owners = format!("GRANT ALL ON TABLE {name} TO {owner}");
    steps.push(Step::by(&table.owner, owners));
    for step in &steps {
        set_role(session, step.role.as_deref()).await?;
        session.batch(&step.sql).await.map_err(|e| {
            match statistics_of(table, name, &step.sql) {
                Some(statistics) if about_the_change(&e) => cannot_follow(&e, statistics),
                _ => cannot(e, step, name),
            }
        })?;
    }
    set_role(session, Some(&table.owner)).await
}

/// The object of extended statistics that a statement about the clone's stands for.
fn statistics_of<'a>(table: &'a Table, clone: &QualifiedName, sql: &str) -> Option<&'a Statistics> {
    let named = |n: usize| sql.contains(&clone.sibling(statistics_name(n)).to_string());
    table.statistics.iter().enumerate().find(|(n, _)| named(*n)).map(|(_, statistics)| statistics)
}

/// Above all where the new table lacks one of their columns.
fn cannot_follow(e: &Error, statistics: &Statistics) -> Error {
    let name = statistics.qualified();
    let what = format!(
        "extended statistics {name} ({}) cannot follow to the new table: {}",
        statistics.definition,
        e.what()
    );
    Error::new(Kind::Refused, what).state("Nothing was touched").next(format!(
        "Give the new table what they are about; or DROP STATISTICS {name} before, and make others after the swap"
    ))
}

/// Its columns, constraints and indexes alone, and what was read of that; the session acts as the owner.
pub(super) async fn bare(session: &Session, source: &Table) -> Result<(Clone, Table)> {
    let owner = quote_ident(&source.owner);
    let name = QualifiedName::new(format!("pgwraith_rehearsal_{}", session.pid()), &source.name);
    let schema = quote_ident(&name.schema);
    session.batch(&format!("CREATE SCHEMA {schema} AUTHORIZATION {owner}")).await?;
    set_role(session, Some(&source.owner)).await?;
    // Statistics have owners of their own, and others than the owner grant on; nobody else ever sees
    // this schema.
    session.batch(&format!("GRANT ALL ON SCHEMA {schema} TO PUBLIC")).await?;
    for sql in shadow::clone_statements(source, &name) {
        let step = Step::by(&source.owner, sql);
        session.batch(&step.sql).await.map_err(|e| cannot(e, &step, &name))?;
    }
    let now = read(session, &name).await?;
    Ok((Clone { oid: now.oid, name }, now))
}

impl Clone {
    /// The text of a trial, as it can be run.
    pub(super) fn tried(&self, sql: &str) -> String {
        sql.replace(catalog::TRIAL, &self.name.schema)
    }
}

/// Whether PostgreSQL says that something cannot be, rather than not now.
pub(super) fn about_the_change(e: &Error) -> bool {
    e.db().is_some()
        && !matches!(classify(e), Class::Late | Class::Transient | Class::ConnectionLost)
}

/// PostgreSQL chooses in whose name a privilege is given, and may choose another than it did once.
async fn same_privileges(session: &Session, source: &Table, clone: &Clone) -> Result<()> {
    let now = read(session, &clone.name).await?;
    let of_others = |table: &Table| -> Vec<Grant> {
        let all = table.grants.iter().flatten();
        all.filter(|g| g.grantee.as_deref() != Some(&table.owner)).cloned().collect()
    };
    let columns = source.columns.iter().zip(&now.columns);
    let on_system = |table: &Table| -> Vec<Grant> {
        table.system_columns.iter().flat_map(|c| &c.grants).cloned().collect()
    };
    let same = of_others(source) == of_others(&now)
        && on_system(source) == on_system(&now)
        && columns
            .into_iter()
            .all(|(was, is)| was.grants.iter().flatten().eq(is.grants.iter().flatten()));
    if same {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("privileges on {} would not be in the name of those who gave them", source.qualified()),
    )
    .state("Nothing was touched")
    .next("REVOKE what was given by a role that is a superuser or a member of the owner by now, and GRANT it again"))
}

/// The clone was made from text, as the new table will be.
async fn same_meaning(session: &Session, source: &Table, clone: &Clone) -> Result<()> {
    let moves = [(source.qualified(), clone.name.clone())];
    let was = meaning::parts(session, source.oid, &moves).await?;
    let is = meaning::parts(session, clone.oid, &moves).await?;
    let nothing = meaning::Meaning::new();
    for (part, was) in &was {
        if let Some(why) = meaning::lost(was, is.get(part).unwrap_or(&nothing), false) {
            return Err(Error::new(Kind::Refused, format!("{part} of {}: {why}", source.qualified()))
                .state("Nothing was touched")
                .next("Write it with its operators named, OPERATOR(schema.=), and NOT (a = b) for IS DISTINCT FROM"));
        }
    }
    Ok(())
}

/// Acts as `role` from here on; None is the connecting one.
pub(super) async fn set_role(session: &Session, role: Option<&str>) -> Result<()> {
    session.batch(&shadow::set_role(role)).await
}

pub(super) async fn read(session: &Session, name: &QualifiedName) -> Result<Table> {
    let read = catalog::read_named(session, name).await?;
    read.ok_or_else(|| Error::failed("the clone of the table vanished"))
}

/// What the source has and the clone cannot get, the new table could not either.
fn cannot(e: Error, step: &Step, clone: &QualifiedName) -> Error {
    match about_the_change(&e) {
        true => {
            let sql = step.sql.replace(&clone.to_string(), "the new table");
            let why = e.what().replace(&format!("{}.", clone.schema), "");
            let role = step.role.as_deref().unwrap_or("the connecting role");
            Error::new(
                Kind::Refused,
                format!("this cannot be carried over: {sql}, as {role}: {why}"),
            )
            .next("Give the role what it lacks, or take the thing off the table before")
        }
        false => e,
    }
}

/// The source as its clone should be: statistics in the clone's schema, under names that say which.
fn as_clone(source: &Table, name: &QualifiedName) -> Table {
    let mut wanted = source.clone().renamed(name, str::to_owned);
    for (n, statistics) in wanted.statistics.iter_mut().enumerate() {
        (statistics.schema, statistics.name) = (name.schema.clone(), statistics_name(n));
    }
    wanted
}

/// What was read of the clone, under the source's names again.
pub(super) fn as_source(clone: Table, source: &Table) -> Table {
    let mut target = clone.renamed(&source.qualified(), str::to_owned);
    target.grants = source.grants.clone();
    for (n, original) in source.statistics.iter().enumerate() {
        let name = statistics_name(n);
        if let Some(kept) = target.statistics.iter_mut().find(|s| s.name == name) {
            (kept.schema, kept.name) = (original.schema.clone(), original.name.clone());
        }
    }
    target
}

fn statistics_name(n: usize) -> String {
    format!("pgwraith_{n}")
}
