//! The clauses one by one, each in steps where it needs some, tried on the clone.

use super::careful::Careful;
use super::likeness::likeness;
use super::lock::Lock;
use super::observe::{Ground, Observer};
use super::step::{How, Step};
use super::verdict::{Verdict, Way};
use crate::catalog::{Column, Constraint, ForeignKey, Part, Table};
use crate::change::alter::alter;
use crate::change::clone::set_role;
use crate::error::{Kind, Result};
use crate::pg::Session;
use crate::pg::sqlstate::classify;

/// One clause, and the lock that it asks for.
pub(super) type Clause<'a> = (&'a str, Option<Lock>);
/// The steps; or why there are none, where that is more than that a clause has none.
pub(super) type Stepwise = std::result::Result<Vec<Step>, Option<&'static str>>;

const OTHER_TABLE: &str = "the table would come out another than by all clauses at once";
const DROPS_FIRST: &str = "what it drops would be gone before the rest is done, which takes long and may fail; what is dropped \
    comes last where it can";

impl Observer<'_> {
    /// Each clause on what those before it have left, in steps, and together what all of them at once make; none
    /// where one of them has none, or cannot stand alone.
    ///
    /// Nobody brings back what is dropped, so it is dropped once nothing can fail any more, and nothing is missing
    /// while the rest takes its time. Whether that may be is seen by what table it makes.
    pub(super) async fn careful(
        &self,
        on: &Ground<'_>,
        clauses: &[Clause<'_>],
        wanted: &Table,
    ) -> Result<Stepwise> {
        let Some(dropping) = self.dropping(on, clauses).await? else { return Ok(Err(None)) };
        let all = || clauses.iter().zip(&dropping);
        let of = |last: bool| all().filter(move |(_, drops)| **drops == last).map(|(c, _)| *c);
        let ordered: Vec<Clause<'_>> = of(false).chain(of(true)).collect();
        let moved = ordered.iter().zip(clauses).any(|(a, b)| a.0 != b.0);
        let steps = match self.one_by_one(on, &ordered).await {
            Ok(Some(steps)) => steps,
            Ok(None) => return Ok(Err(None)),
            // Each stood where it was typed.
            Err(e) if e.kind() == Kind::Usage => return Ok(Err(moved.then_some(DROPS_FIRST))),
            Err(e) => return Err(e),
        };
        let made = self.moment(on).await?.table;
        if made.is_none_or(|made| likeness(&made) != likeness(wanted)) {
            return Ok(Err(Some(if moved { DROPS_FIRST } else { OTHER_TABLE })));
        }
        match !self.source.is_partitioned() || self.are_short_in_parts(on, &steps).await? {
            true => Ok(Ok(steps)),
            false => Ok(Err(None)),
        }
    }

    /// Which clauses drop something; None where one of them cannot stand alone.
    async fn dropping(&self, on: &Ground<'_>, clauses: &[Clause<'_>]) -> Result<Option<Vec<bool>>> {
        let all = async {
            let mut out = Vec::new();
            for (clause, lock) in clauses {
                match self.looked(on, &[clause], *lock).await {
                    Ok((_, Some((before, after)))) => out.push(drops(&before, &after)),
                    Ok((_, None)) => return Ok(None),
                    Err(e) if e.kind() == Kind::Usage => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
            Ok(Some(out))
        };
        self.session.undone(all).await
    }

    async fn one_by_one(
        &self,
        on: &Ground<'_>,
        clauses: &[Clause<'_>],
    ) -> Result<Option<Vec<Step>>> {
        let name = self.source.qualified();
        let divided_by = match self.source.is_partitioned() {
            true => divided_by(self.session, self.source).await?,
            false => Vec::new(),
        };
        let mut steps = Vec::new();
        for (clause, lock) in clauses {
            self.session.batch("SAVEPOINT clause").await?;
            let (observed, tables) = self.looked(on, &[clause], *lock).await?;
            let Some((before, after)) = tables else { return Ok(None) };
            if Verdict::of(&observed, false).way != Way::ShadowCopy {
                steps.push(Step::typed(&name, clause, &observed));
                continue;
            }
            let careful = Careful {
                table: &name,
                version: self.session.version(),
                before: &before,
                after: &after,
                observed: &observed,
                source: self.source,
                divided_by: &divided_by,
            };
            let Some(more) = careful.steps() else { return Ok(None) };
            self.session.batch("ROLLBACK TO SAVEPOINT clause").await?;
            if !self.comes_to_the_same(on, &more, &after).await? {
                return Ok(None);
            }
            steps.extend(more);
        }
        Ok(Some(steps))
    }

    /// Takes the steps, on no rows, and looks: each does what it is said to, and all of them what the clause does.
    async fn comes_to_the_same(
        &self,
        on: &Ground<'_>,
        steps: &[Step],
        wanted: &Table,
    ) -> Result<bool> {
        let session = self.session;
        for step in steps {
            let Some(sql) = step.rehearsed(&on.made.name) else { continue };
            let before = self.moment(on).await?;
            set_role(session, Some(&self.source.owner)).await?;
            let done = match &step.clauses {
                Some(clauses) => alter(session, &on.made.name, clauses, on.stand_ins).await,
                None => session.batch(&sql).await,
            };
            match done {
                Ok(()) => {}
                Err(e) if e.db().is_none() || classify(&e).passes() => return Err(e),
                Err(e) => {
                    tracing::debug!("no careful way: {}: {e}", step.sql);
                    return Ok(false);
                }
            }
            let after = self.moment(on).await?;
            let works = before.works_until(&after, on.made.oid);
            // By itself, where no partition has built it already.
            if works && step.how() == How::Short && !step.does.attaches() {
                tracing::debug!("no careful way: {} is not done in a moment", step.sql);
                return Ok(false);
            }
        }
        let made = self.moment(on).await?.table;
        Ok(made.is_some_and(|made| likeness(&made) == likeness(wanted)))
    }
}

/// The columns that rows are divided by, at whatever level. An expression has no name.
async fn divided_by(session: &Session, source: &Table) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT COALESCE(a.attname::pg_catalog.text, '') FROM pg_catalog.pg_partitioned_table p \
                 CROSS JOIN LATERAL pg_catalog.unnest(p.partattrs::pg_catalog.int2[]) AS n (number) \
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = n.number AND n.number > 0 \
               WHERE p.partrelid = ANY ($1)";
    let tables: Vec<u32> = source.parts.iter().map(|part| part.oid).chain([source.oid]).collect();
    Ok(session.query(sql, &[&tables]).await?.iter().map(|row| row.get(0)).collect())
}

/// A column, a constraint, a key of either end, or that a column has a value in every row. What is renamed, or
/// made anew under its name, is there.
fn drops(before: &Table, after: &Table) -> bool {
    let constraint =
        |was: &Constraint| after.constraints.iter().any(|c| c.oid == was.oid || c.name == was.name);
    let key = |was: &ForeignKey| {
        after.foreign_keys.iter().any(|k| k.definition == was.definition || k.name == was.name)
    };
    let column =
        |was: &Column| after.column(was.attnum).is_some_and(|is| is.not_null || !was.not_null);
    !before.columns.iter().all(column)
        || !before.constraints.iter().all(constraint)
        || !before.foreign_keys.iter().all(key)
}

/// What an UPDATE of every row would do that an ALTER TABLE that writes them anew does not. Partitions are updated by
/// their own names.
pub async fn rows_cannot_be_filled(session: &Session, source: &Table) -> Result<Option<String>> {
    let mut tables: Vec<u32> = source.parts.iter().map(|part| part.oid).collect();
    tables.push(source.oid);
    let hides = "SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) \
                   AND c.relrowsecurity AND c.relforcerowsecurity LIMIT 1";
    if let Some(row) = session.maybe(hides, &[&tables]).await? {
        return Ok(Some(format!(
            "rows would be filled by the owner, whom row security is forced on ({}): it would hide some",
            row.get::<_, &str>(0)
        )));
    }
    let other = |part: &&Part| part.is_leaf() && (part.kind != 'r' || part.owner != source.owner);
    if let Some(part) = source.parts.iter().find(other) {
        let name = part.qualified();
        return Ok(Some(format!(
            "rows of {name} would be filled, which is a foreign table or another owner's"
        )));
    }
    // A trigger for certain columns does not know the new one. (16: UPDATE.)
    let sql = "SELECT DISTINCT 'trigger ' || t.tgname FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal \
                 AND t.tgenabled IN ('O', 'A') AND (t.tgtype::pg_catalog.int4 & 16) <> 0 AND t.tgattr::pg_catalog.text = '' \
               UNION ALL SELECT 'rule ' || r.rulename FROM pg_catalog.pg_rewrite r \
               WHERE r.ev_class = ANY ($1) AND r.ev_type = '2' AND r.ev_enabled IN ('O', 'A')";
    let fires: Vec<String> =
        session.query(sql, &[&tables]).await?.iter().map(|row| row.get(0)).collect();
    let why = || format!("rows would be filled by UPDATE, which fires {}", fires.join(", "));
    Ok((!fires.is_empty()).then(why))
}
