//! What would be done, before anything is: the ways of a change, the recommended one, every statement and lock.
//!
//! Everything is found out in transactions that are rolled back, and on tables that nobody else sees; no
//! schema, slot or publication is made.

mod clients;
mod estimate;
mod sampled;
mod statements;

use super::copy::CopySettings;
use super::left_behind::LeftBehind;
use super::prepare;
use super::rehearsal::table;
use crate::catalog::{self, Table};
use crate::change::trial::{self, Trial, Verdict, Way};
use crate::change::{self, Request, partition};
use crate::cutover;
use crate::error::{Error, Kind, Result};
use crate::pg::sqlstate::{Class, classify};
use crate::pg::{Connector, Session, Who};
use crate::preflight::{self, EventTriggers, Finding, Severity, Subject};
use crate::shadow::Names;
use clients::Known;
pub use estimate::{Estimate, Size};

/// The statements name the migration, whose number is not known yet.
const NO_MIGRATION: i64 = 0;

/// A plan only reads: it waits so long for whoever keeps out readers.
const PATIENCE: &str = "10s";

/// What would be done.
#[derive(Debug, serde::Serialize)]
pub struct Planned {
    pub table: String,
    pub size: Size,
    pub way: Way,
    pub why: String,
    /// What PostgreSQL would do in place; None where it was not asked.
    pub in_place: Option<Trial>,
    /// Why it was not.
    pub not_in_place: Option<String>,
    /// None where that is refused.
    pub copy: Option<CopyWay>,
    /// Everything that refuses the copy.
    pub refused: Vec<String>,
    /// What else preflight has to say, of the copy.
    pub notes: Vec<String>,
    pub clients: Vec<String>,
}

/// The copy.
#[derive(Debug, serde::Serialize)]
pub struct CopyWay {
    pub shadow: String,
    pub retired: String,
    pub phases: Vec<PhaseSql>,
    /// Statements that take the cutover's locks, in their order; all of them keep out reads and writes.
    pub locks: Vec<String>,
    /// What follows the table, by kind and name.
    pub follows: Vec<String>,
    pub estimate: Estimate,
}

/// What one phase executes.
#[derive(Debug, serde::Serialize)]
pub struct PhaseSql {
    pub phase: &'static str,
    pub note: String,
    /// What it locks of what is there before, how, and for how long.
    pub locks: Vec<String>,
    pub sql: Vec<String>,
}

impl Planned {
    /// Finds it out. Errors are of the request, or of the connection; what stands in the way of a way is part
    /// of the plan.
    pub async fn of(
        connector: &Connector,
        typed: &str,
        request: &Request,
        event_triggers: EventTriggers,
    ) -> Result<Planned> {
        let session = connector.session("plan").await?;
        let oid = catalog::find(&session, typed).await?;
        let planned = Planned::of_table(connector, &session, oid, request, event_triggers).await;
        match planned {
            Ok(planned) => {
                planned.ok_or_else(|| Error::usage(format!("{typed} is not there any more")))
            }
            Err(e) if classify(&e) == Class::Late => Err(locked_out(&session, oid, typed, e).await),
            Err(e) => Err(e),
        }
    }

    /// None where it is gone.
    async fn of_table(
        connector: &Connector,
        session: &Session,
        oid: u32,
        request: &Request,
        event_triggers: EventTriggers,
    ) -> Result<Option<Planned>> {
        session.set("lock_timeout", PATIENCE).await?;
        let Some(source) = catalog::read(session, oid).await? else { return Ok(None) };
        // What is tried has limits of its own, and preflight looks whether the session's are those it was given.
        session.set("lock_timeout", "0").await?;
        let names = Names::of(&source.qualified());
        let subject = Subject {
            connector,
            session,
            table: &source,
            names: &names,
            event_triggers,
            replicas: &[],
            workers: CopySettings::default().workers,
            window: None,
        };
        let planning = Planning { session, source: &source, names: &names, request, subject };
        planning.all().await.map(Some)
    }

    /// Whether the way that is recommended is open.
    pub fn is_open(&self) -> bool {
        !matches!(self.way, Way::ShadowCopy | Way::Unknown) || self.refused.is_empty()
    }
}

/// Says who keeps readers out, as far as can be seen by now.
async fn locked_out(session: &Session, oid: u32, typed: &str, e: Error) -> Error {
    let sql = format!(
        "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks l \
         WHERE l.locktype = 'relation' AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d \
           WHERE d.datname = pg_catalog.current_database()) \
         AND l.relation = $1 AND l.mode = 'AccessExclusiveLock' AND l.granted)",
        Who::COLUMNS
    );
    session.rollback().await;
    let rows = session.query(&sql, &[&oid]).await.unwrap_or_default();
    let all: Vec<Who> = rows.iter().map(Who::of).collect();
    let by = Who::list(&all)
        .map_or("its lock is free again by now".to_owned(), |all| format!("locked by {all}"));
    e.context(format!("{typed} could not be read within {PATIENCE}; {by}"))
        .state("Nothing was touched")
        .next("Ask again once that transaction has ended")
}

struct Planning<'a> {
    session: &'a Session,
    source: &'a Table,
    names: &'a Names,
    request: &'a Request,
    subject: Subject<'a>,
}

impl Planning<'_> {
    async fn all(&self) -> Result<Planned> {
        let source = self.source;
        self.request.refuse_by_name()?;
        let in_place = self.in_place().await?;
        let findings = preflight::run(&self.subject).await?;
        let refuses = |f: &&Finding| f.severity == Severity::Refuse;
        let mut refused: Vec<String> =
            findings.iter().filter(refuses).map(Finding::to_string).collect();
        let mut notes: Vec<String> =
            findings.iter().filter(|f| !refuses(f)).map(Finding::to_string).collect();
        let mut copy = None;
        // Rehearsed too, where nothing forbids that: everything is told at once.
        let size = self.size().await?;
        if matches!(source.kind, 'r' | 'p') && !fires_event_triggers(&findings) {
            match self.copy(&size, &mut notes).await {
                Ok(rehearsed) => copy = Some(rehearsed),
                Err(e) if e.is_connection_lost() => return Err(e),
                // Where nothing else can be done either, it is the request that is wrong.
                Err(e) if e.kind() == Kind::Usage && in_place.is_err() => return Err(e),
                Err(e) => refused.push(format!("{e}.")),
            }
        }
        let (way, why) = match &in_place {
            Ok(trial) => (trial.verdict.way, trial.verdict.why.clone()),
            Err(Verdict { way, why }) => (*way, why.clone()),
        };
        let tried = in_place.as_ref().ok().and_then(|trial| trial.observed.becomes.as_ref());
        let plan = copy.as_ref().map(|(_, plan)| plan);
        let known = Known {
            source,
            target: plan.map(|plan| &plan.target).or(tried),
            carried: plan.map_or(&[], |plan| &plan.carried),
            way,
            slots: &self.slots_of_others().await?,
        };
        let clients = known.advice();
        let copy = copy.map(|(way, _)| way).filter(|_| refused.is_empty());
        let (in_place, not_in_place) = match in_place {
            Ok(trial) => (Some(trial), None),
            Err(Verdict { why, .. }) => (None, Some(why)),
        };
        let table = source.qualified().to_string();
        Ok(Planned { table, size, way, why, in_place, not_in_place, copy, refused, notes, clients })
    }

    /// What PostgreSQL would do, or why it cannot be asked.
    async fn in_place(&self) -> Result<Result<Trial, Verdict>> {
        let by_copy = |why| Ok(Err(Verdict { way: Way::ShadowCopy, why }));
        if let Some(why) = self.request.needs_copy() {
            return by_copy(why.into());
        }
        let findings = preflight::before_a_trial(&self.subject).await?;
        let refusal = findings.iter().find(|f| f.severity == Severity::Refuse);
        if let Some(refusal) = refusal {
            let why = format!("PostgreSQL was not asked what it would do in place: {refusal}");
            return Ok(Err(Verdict { way: Way::Unknown, why }));
        }
        match trial::observe(self.session, self.source, self.request).await {
            Ok(Trial { verdict, observed, .. })
                if verdict.way == Way::ShadowCopy && observed.no_way.is_some() =>
            {
                Ok(Err(verdict))
            }
            // It is told in a word: the statement as typed is nobody's to run.
            Ok(trial) if self.source.is_partitioned() && trial.verdict.way == Way::ShadowCopy => {
                let why = trial.verdict.why;
                by_copy(format!("PostgreSQL would do more than change its catalogs: {why}"))
            }
            Ok(trial) => Ok(Ok(trial)),
            Err(e) if e.kind() == Kind::Refused => by_copy(e.what().to_owned()),
            Err(e) => Err(e),
        }
    }

    async fn size(&self) -> Result<Size> {
        let source = self.source;
        let index = || source.indexes.iter().map(|index| index.bytes);
        let rows = match source.kind {
            'r' | 'p' => table::rows(self.session, source).await?,
            _ => source.estimated_rows.max(0.0),
        };
        Ok(Size {
            rows,
            table_bytes: source.heap_bytes,
            index_bytes: index().sum(),
            largest_index_bytes: index().max().unwrap_or(0),
        })
    }

    /// What an expression that is STABLE may read.
    async fn settings(&self, columns: &[String]) -> Result<String> {
        let now = self.session.making().await?;
        let now: Vec<String> =
            now.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        Ok(format!(
            "what {} gets is STABLE: it depends on settings of the session, for this role in this database: {}. A run keeps those \
             of its beginning to its end, also where another goes on with it",
            columns.join(", "),
            now.join(", ")
        ))
    }

    /// Whose consumers the copy's writes pass, with their plugins.
    async fn slots_of_others(&self) -> Result<Vec<String>> {
        let sql = "SELECT s.slot_name::pg_catalog.text || ' (' || s.plugin::pg_catalog.text || ')' \
                   FROM pg_catalog.pg_replication_slots s WHERE s.slot_type = 'logical' \
                     AND s.database = pg_catalog.current_database() AND NOT s.temporary \
                     AND NOT pg_catalog.starts_with(s.slot_name::pg_catalog.text, 'pgwraith') ORDER BY 1";
        Ok(self.session.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
    }

    async fn copy(&self, size: &Size, notes: &mut Vec<String>) -> Result<(CopyWay, change::Plan)> {
        let (session, source, names) = (self.session, self.source, self.names);
        let mut plan = change::rehearse(session, source, self.request).await?;
        if let (Some(index), Some(order)) = (&self.request.order_by, &plan.order) {
            change::refuse_crowds(session, source, index, order).await?;
        }
        partition::lay_out(
            (self.subject.connector, session),
            source,
            names,
            &mut plan,
            self.request,
        )
        .await?;
        preflight::refuse_taken(session, source, names, &plan.target).await?;
        let flow =
            prepare::describe_flow(session, NO_MIGRATION, source, plan.clone(), names).await?;
        notes.extend(table::out_of_order(session, source, &flow).await?);
        if let Some(keep) = &plan.keep {
            let gone = LeftBehind::of(session, source, keep).await?;
            notes.push(format!(
                "--where leaves {gone} of {} behind, in the old table: a run asks for --yes",
                source.qualified()
            ));
        }
        if let Some(asked) = &self.request.partition {
            notes.extend(partition::reads_all_rows(source, &plan, asked)?);
            notes.extend(asked.without_default().map(str::to_owned));
        }
        notes.extend(change::lost_by_cascade(source, &plan.target, self.request));
        let limit = cutover::Limits::default().max_lock_hold;
        notes.extend(preflight::long_swap(source, &plan, limit));
        if self.request.shadow_ddl.is_some() {
            let dropped = change::ddl::dropped(source, &plan.target);
            if !dropped.is_empty() {
                let columns = dropped.join(", ");
                notes.push(format!("the new table has no column {columns}: a run asks for --yes"));
            }
            notes.extend(change::ddl::left_out(source, &plan));
        }
        let (phases, tried) = statements::statements(session, source, &plan, &flow, names).await?;
        notes.extend(tried);
        if !plan.by_settings.is_empty() {
            notes.push(self.settings(&plan.by_settings).await?);
        }
        let follows = plan.carried.iter().map(|c| format!("{} {}", c.kind, c.name));
        let keys = source.foreign_keys.iter().map(|k| {
            format!("foreign key {:?} from {} to {}", k.name, k.from.qualified(), k.to.qualified())
        });
        let way = CopyWay {
            shadow: names.shadow.to_string(),
            retired: names.retired.to_string(),
            phases,
            locks: cutover::lock_statements(&names.shadow, source, &plan.target, &plan.carried),
            follows: follows.chain(keys).collect(),
            estimate: Estimate::of(size),
        };
        Ok((way, plan))
    }
}

/// What is tried is DDL too.
fn fires_event_triggers(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.check == "event_triggers" && f.severity == Severity::Refuse)
}
