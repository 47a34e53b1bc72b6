//! Runs the ALTER on an empty clone, and looks.

use std::collections::HashMap;
use std::time::Duration;

use super::Trial;
use super::lock::Lock;
use super::observed::{self, Observed};
use super::step::{How, Step};
use super::stepwise::{Clause, rows_cannot_be_filled};
use super::verdict::{Verdict, Way};
use crate::catalog::{self, Column, Table};
use crate::change::Request;
use crate::change::alter::alter;
use crate::change::clauses::clauses;
use crate::change::clone::{self, Clone, set_role};
use crate::change::foreign_keys;
use crate::change::references;
use crate::change::stand_in::StandIns;
use crate::error::{Error, Kind, Result};
use crate::pg::{QualifiedName, Session};

/// Whatever the change names besides is only looked at, and no longer than this is waited for that; what it would
/// lock against writers has a stand-in ([`references`]).
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);
/// What takes longer on no rows does not do what it looks like.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

const OF_PARTITIONED: &str = "of a partitioned table only columns, checks, foreign keys to other tables, and keys over all columns that it is divided by have steps";

/// What a plain ALTER TABLE with the clauses of `request` would do to the table. Leaves nothing behind. Errors
/// of kind `Usage` are what PostgreSQL says of the clauses.
pub async fn observe(session: &Session, source: &Table, request: &Request) -> Result<Trial> {
    session.batch("BEGIN").await?;
    let trial = Observer { session, source }.all(&request.alters).await;
    session.rollback().await;
    keep_what_hangs_on_it(session, source, request, trial?).await
}

/// The same in the open transaction of a session that keeps DDL off the table.
pub async fn observe_within(session: &Session, source: &Table, request: &Request) -> Result<Trial> {
    let observer = Observer { session, source };
    let trial = session.undone(observer.all(&request.alters)).await?;
    keep_what_hangs_on_it(session, source, request, trial).await
}

/// A clone has nothing hanging on it: what the table has counts too.
async fn keep_what_hangs_on_it(
    session: &Session,
    source: &Table,
    request: &Request,
    mut trial: Trial,
) -> Result<Trial> {
    let carried = catalog::carried(session, source.oid).await?;
    trial.keep_what_hangs_on_it(&carried, request);
    if trial.steps.iter().any(|step| step.how() == How::Fill)
        && let Some(why) = rows_cannot_be_filled(session, source).await?
    {
        trial.copy_instead(why);
    }
    Ok(trial)
}

pub(super) struct Observer<'a> {
    pub(super) session: &'a Session,
    pub(super) source: &'a Table,
}

/// How things stood.
#[derive(Default)]
pub(super) struct Moment {
    pub(super) table: Option<Table>,
    /// Table and indexes: name, file, and how often they were scanned.
    pub(super) files: HashMap<u32, (String, u32, i64)>,
    /// The others that stand in: how often they were scanned.
    pub(super) stand_ins: HashMap<u32, (QualifiedName, i64)>,
    /// Foreign keys, and the table at the other end.
    pub(super) foreign_keys: HashMap<u32, u32>,
    /// Locks of ours on relations that were there before.
    pub(super) locks: HashMap<u32, (QualifiedName, Vec<Lock>)>,
}

impl Observer<'_> {
    async fn all(&self, alters: &[String]) -> Result<Trial> {
        let (session, source) = (self.session, self.source);
        // A join of no rows with those of another table does not come to that where it is a nested loop: the check of a
        // foreign key is not taken for a scan of it.
        session
            .batch(&format!(
                "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
                 SET LOCAL check_function_bodies = off; \
                 SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
                LOCK_TIMEOUT.as_millis(),
                TRIAL_TIMEOUT.as_millis()
            ))
            .await?;
        let (made, _) = clone::bare(session, source).await?;
        if source.persistence == 'u' {
            session.batch(&format!("ALTER TABLE {} SET UNLOGGED", made.name)).await?;
        }
        let mut stand_ins = StandIns::new(session, source, &made.name);
        references::stand_in(session, source, alters, &mut stand_ins).await?;
        self.scans_are_seen(&made).await?;
        let each: Vec<&str> = alters.iter().flat_map(|text| clauses(text)).collect();
        // Before the foreign keys are on it: those take a lock that hides whether the change takes it.
        let mut locks = Vec::new();
        for clause in &each {
            locks.push(self.lock_of(&made, &[clause], &stand_ins).await?);
        }
        let whole: Vec<&str> = alters.iter().map(String::as_str).collect();
        // An ALTER TABLE takes the strongest lock of its clauses.
        let lock = match locks.iter().copied().collect::<Option<Vec<Lock>>>() {
            Some(locks) => locks.into_iter().max(),
            None => self.lock_of(&made, &whole, &stand_ins).await?,
        };
        foreign_keys::put_on(session, source, &mut stand_ins).await?;
        let on = Ground { made: &made, stand_ins: &stand_ins };
        let (mut observed, tables) = self.tried(&on, &whole, lock).await?;
        if source.is_partitioned() {
            self.divided(&on, &whole, &each, &mut observed).await?;
        }
        let verdict = Verdict::of(&observed, false);
        if verdict.way != Way::ShadowCopy {
            let name = source.qualified();
            let steps = alters.iter().map(|text| Step::typed(&name, text, &observed)).collect();
            return Ok(Trial { observed, verdict, steps });
        }
        if observed.no_way.is_some() {
            return Ok(Trial { observed, verdict, steps: Vec::new() });
        }
        let clauses: Vec<Clause<'_>> = each.iter().copied().zip(locks).collect();
        let careful = match &tables {
            Some((_, wanted)) => self.careful(&on, &clauses, wanted).await?,
            None => Err(None),
        };
        let mut verdict = Verdict::of(&observed, careful.is_ok());
        match &careful {
            Err(Some(why)) => verdict.why = format!("{}, and in steps {why}", verdict.why),
            Err(None) if source.is_partitioned() => {
                verdict.why = format!("{}, and {OF_PARTITIONED}", verdict.why);
            }
            _ => {}
        }
        Ok(Trial { observed, verdict, steps: careful.unwrap_or_default() })
    }

    /// What tells whether rows are read must be there.
    async fn scans_are_seen(&self, made: &Clone) -> Result<()> {
        let sql = "SELECT pg_catalog.pg_stat_get_xact_numscans($1)";
        let before: i64 = self.session.one(sql, &[&made.oid]).await?.get(0);
        self.session.batch(&format!("SELECT pg_catalog.count(*) FROM ONLY {}", made.name)).await?;
        let after: i64 = self.session.one(sql, &[&made.oid]).await?.get(0);
        if after > before {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "the server does not count scans (track_counts is off)")
            .next("SET track_counts = on, or the change can only be made by a copy (--force-copy)"))
    }

    /// The strongest lock that the statements ask for on the table; None where they cannot be run on a
    /// bare clone.
    ///
    /// Whoever makes a table holds ACCESS EXCLUSIVE on it, which hides whether it was asked for. But each
    /// mode that is asked for is listed, and a bare clone was made with none of the two others that an
    /// ALTER TABLE begins with. SHARE ROW EXCLUSIVE may be asked for later, too, for a foreign key's
    /// triggers: it was the first one only where nothing else of the table changed.
    async fn lock_of(
        &self,
        made: &Clone,
        statements: &[&str],
        stand_ins: &StandIns<'_>,
    ) -> Result<Option<Lock>> {
        let session = self.session;
        let lock = async {
            let (held, was) = (self.modes(made.oid).await?, self.rows_of(made.oid).await?);
            match self.run(made, statements, stand_ins).await {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::Usage => return Ok(None),
                Err(e) => return Err(e),
            }
            let now = self.modes(made.oid).await?;
            let new = |lock: Lock| now.contains(&lock) && !held.contains(&lock);
            let alike = self.rows_of(made.oid).await? == was;
            Ok(Some(match () {
                () if new(Lock::ShareRowExclusive) && alike => Lock::ShareRowExclusive,
                () if new(Lock::ShareRowExclusive) => Lock::AccessExclusive,
                () if new(Lock::ShareUpdateExclusive) => Lock::ShareUpdateExclusive,
                () => Lock::AccessExclusive,
            }))
        };
        session.undone(lock).await
    }

    async fn modes(&self, oid: u32) -> Result<Vec<Lock>> {
        let sql = "SELECT l.mode FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.relation = $1 \
                   AND l.pid = pg_catalog.pg_backend_pid()";
        let rows = self.session.query(sql, &[&oid]).await?;
        Ok(rows.iter().filter_map(|row| Lock::parse(row.get(0))).collect())
    }

    /// Where its catalog rows are, without those of foreign keys and triggers.
    async fn rows_of(&self, oid: u32) -> Result<Option<String>> {
        let sql = "SELECT pg_catalog.concat_ws(' ', \
            (SELECT pg_catalog.string_agg(a.ctid::pg_catalog.text, ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1), \
            (SELECT pg_catalog.string_agg(d.ctid::pg_catalog.text, ',' ORDER BY d.adnum) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = $1), \
            (SELECT pg_catalog.string_agg(i.ctid::pg_catalog.text, ',' ORDER BY i.indexrelid) FROM pg_catalog.pg_index i WHERE i.indrelid = $1), \
            (SELECT pg_catalog.string_agg(k.ctid::pg_catalog.text, ',' ORDER BY k.oid) FROM pg_catalog.pg_constraint k \
              WHERE k.conrelid = $1 AND k.contype <> 'f'), \
            (SELECT pg_catalog.concat_ws('/', c.relname, c.relnamespace, c.relowner, c.reloftype, c.relfilenode, c.reltablespace, c.relam, \
               c.reloptions, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relreplident) \
             FROM pg_catalog.pg_class c WHERE c.oid = $1))";
        Ok(self.session.one(sql, &[&oid]).await?.get(0))
    }

    async fn run(&self, made: &Clone, statements: &[&str], stand_ins: &StandIns<'_>) -> Result<()> {
        for text in statements {
            alter(self.session, &made.name, text, stand_ins).await?;
        }
        Ok(())
    }

    /// What the statements do, and the table before and after, undone again.
    pub(super) async fn tried(
        &self,
        on: &Ground<'_>,
        statements: &[&str],
        lock: Option<Lock>,
    ) -> Result<(Observed, Option<(Table, Table)>)> {
        self.session.undone(self.looked(on, statements, lock)).await
    }

    /// What the statements do, and the table before and after.
    pub(super) async fn looked(
        &self,
        on: &Ground<'_>,
        statements: &[&str],
        lock: Option<Lock>,
    ) -> Result<(Observed, Option<(Table, Table)>)> {
        let before = self.moment(on).await?;
        let held = self.modes(on.made.oid).await?;
        self.run(on.made, statements, on.stand_ins).await?;
        set_role(self.session, Some(&self.source.owner)).await?;
        let after = self.moment(on).await?;
        let weak = Lock::ShareUpdateExclusive;
        let weak = self.modes(on.made.oid).await?.contains(&weak) && !held.contains(&weak);
        // Of what cannot be run on a bare clone, only this much is seen.
        let seen = if weak { Lock::ShareUpdateExclusive } else { Lock::AccessExclusive };
        let moved = |t: &Table| t.qualified() != on.made.name || t.owner != self.source.owner;
        let gains = match (&before.table, &after.table) {
            (Some(before), Some(after)) => observed::gains(before, after),
            _ => Vec::new(),
        };
        let gone = |n: i16| {
            let now = after.table.as_ref();
            now.is_none_or(|now| self.source.becomes(n, now).is_none())
        };
        let retyped = |was: &&Column| {
            let is = after.table.as_ref().and_then(|now| self.source.becomes(was.attnum, now));
            is.is_some_and(|is| (&is.type_sql, &is.collation) != (&was.type_sql, &was.collation))
        };
        let observed = Observed {
            lock: lock.unwrap_or(seen),
            rewritten: before.file(on.made.oid) != after.file(on.made.oid),
            scans: before.scans_until(&after),
            built: before.built_until(&after, on.made.oid),
            others: self.others(on, &before, &after).await?,
            gains: gains.into_iter().map(|gain| on.told(gain)).collect(),
            moved: after.table.as_ref().is_none_or(moved),
            no_way: None,
            retyped: self.source.columns.iter().filter(|c| retyped(c)).map(|c| c.attnum).collect(),
            dropped: self.source.columns.iter().map(|c| c.attnum).filter(|n| gone(*n)).collect(),
            becomes: after.table.clone(),
        };
        let tables = before.table.zip(after.table);
        Ok((observed, tables))
    }

    pub(super) async fn moment(&self, on: &Ground<'_>) -> Result<Moment> {
        let (session, oid) = (self.session, on.made.oid);
        let table = catalog::read(session, oid).await?;
        let files = "SELECT c.oid, c.relname::pg_catalog.text, c.relfilenode, pg_catalog.pg_stat_get_xact_numscans(c.oid) \
            FROM pg_catalog.pg_class c WHERE c.oid = $1 \
            OR c.oid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = $1)";
        let files = session.query(files, &[&oid]).await?;
        let stand_ins = "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, \
              pg_catalog.pg_stat_get_xact_numscans(c.oid) \
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE pg_catalog.starts_with(n.nspname::pg_catalog.text, $2) AND c.relkind = 'r' AND c.oid <> $1";
        let stand_ins = session.query(stand_ins, &[&oid, &on.made.name.schema]).await?;
        let keys = "SELECT k.oid, CASE k.conrelid WHEN $1 THEN k.confrelid ELSE k.conrelid END \
            FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND $1 IN (k.conrelid, k.confrelid)";
        let keys = session.query(keys, &[&oid]).await?;
        let held = "SELECT l.relation, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, l.mode \
            FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() AND c.relkind IN ('r', 'p') \
              AND l.relation <> $1 AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, $2) \
              AND n.nspname NOT IN ('pg_catalog', 'pg_toast')";
        let held = session.query(held, &[&self.source.oid, &on.made.name.schema]).await?;
        let mut locks: HashMap<u32, (QualifiedName, Vec<Lock>)> = HashMap::new();
        for row in &held {
            let name = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
            let known = locks.entry(row.get(0)).or_insert((name, Vec::new()));
            known.1.extend(Lock::parse(row.get(3)));
        }
        Ok(Moment {
            table,
            files: files.iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3)))).collect(),
            stand_ins: stand_ins
                .iter()
                .map(|r| {
                    let name = QualifiedName::new(r.get::<_, &str>(1), r.get::<_, &str>(2));
                    (r.get(0), (name, r.get(3)))
                })
                .collect(),
            foreign_keys: keys.iter().map(|r| (r.get(0), r.get(1))).collect(),
            locks,
        })
    }
}

/// What the change is tried on.
pub(super) struct Ground<'a> {
    pub(super) made: &'a Clone,
    pub(super) stand_ins: &'a StandIns<'a>,
}

impl Ground<'_> {
    /// About the real tables.
    fn told(&self, gain: observed::Gain) -> observed::Gain {
        match gain {
            observed::Gain::ForeignKey { name, definition } => observed::Gain::ForeignKey {
                name,
                definition: self.stand_ins.unstaged(&definition),
            },
            other => other,
        }
    }
}

impl Moment {
    pub(super) fn file(&self, oid: u32) -> Option<u32> {
        self.files.get(&oid).map(|(_, file, _)| *file)
    }

    /// By whatever way rows are read: a check of a foreign key may read them in an index's order.
    pub(super) fn scans_until(&self, after: &Moment) -> i64 {
        let was = |oid: &u32| self.files.get(oid).map_or(0, |(.., scans)| *scans);
        after.files.iter().map(|(oid, (.., scans))| (scans - was(oid)).max(0)).sum()
    }

    /// Whether the table got a new file, was read, or had an index built: what takes longer, the more rows it has.
    pub(super) fn works_until(&self, after: &Moment, table: u32) -> bool {
        self.file(table) != after.file(table)
            || self.scans_until(after) > 0
            || !self.built_until(after, table).is_empty()
    }

    /// Indexes with files that were not there: one that is made anew may take over the file of the old one.
    pub(super) fn built_until(&self, after: &Moment, table: u32) -> Vec<String> {
        let files: Vec<u32> = self.files.values().map(|(_, file, _)| *file).collect();
        let new = |(oid, (_, file, _)): &(&u32, &(String, u32, i64))| {
            **oid != table && !files.contains(file)
        };
        let mut names: Vec<String> =
            after.files.iter().filter(new).map(|(_, (name, ..))| name.clone()).collect();
        names.sort();
        names
    }
}
