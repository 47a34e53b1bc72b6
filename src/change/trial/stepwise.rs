//! The clauses one by one, each in steps where it needs some, tried on the clone.

use super::careful::Careful;
use super::likeness::likeness;
use super::lock::Lock;
use super::observe::{Ground, Observer};
use super::step::{How, Step};
use super::verdict::{Verdict, Way};
use crate::catalog::Table;
use crate::change::clone::set_role;
use crate::change::rehearse::alter;
use crate::error::{Kind, Result};
use crate::pg::Session;
use crate::pg::sqlstate::classify;

impl Observer<'_> {
    /// Each clause on what those before it have left, in steps; None where one of them has none, or cannot
    /// stand alone.
    pub(super) async fn careful(
        &self,
        on: &Ground<'_>,
        each: &[&str],
        locks: &[Option<Lock>],
    ) -> Result<Option<Vec<Step>>> {
        let name = self.source.qualified();
        let mut steps = Vec::new();
        for (n, (clause, lock)) in each.iter().zip(locks).enumerate() {
            self.session.batch("SAVEPOINT clause").await?;
            let (observed, tables) = match self.looked(on, &[clause], *lock).await {
                Ok(looked) => looked,
                Err(e) if e.kind() == Kind::Usage => return Ok(None),
                Err(e) => return Err(e),
            };
            let Some((before, after)) = tables else { return Ok(None) };
            if Verdict::of(&observed, false).way != Way::ShadowCopy {
                // What comes behind it takes its time, in which rows could come to have the same key.
                if n + 1 < each.len() && drops_a_key(&before, &after) {
                    return Ok(None);
                }
                steps.push(Step::typed(&name, clause, &observed));
                continue;
            }
            let careful = Careful {
                table: &name,
                version: self.session.version(),
                before: &before,
                after: &after,
                observed: &observed,
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
            let works = before.file(on.made.oid) != after.file(on.made.oid)
                || before.scans_until(&after) > 0
                || !before.built_until(&after, on.made.oid).is_empty();
            if works && step.how() == How::Short {
                tracing::debug!("no careful way: {} is not done in a moment", step.sql);
                return Ok(false);
            }
        }
        let made = self.moment(on).await?.table;
        Ok(made.is_some_and(|made| likeness(&made) == likeness(wanted)))
    }
}

fn drops_a_key(before: &Table, after: &Table) -> bool {
    let there = |oid: u32| after.indexes.iter().any(|index| index.oid == oid);
    before.indexes.iter().any(|i| (i.unique || i.exclusion) && !there(i.oid))
}

/// What an UPDATE of every row would do that an ALTER TABLE that writes them anew does not.
pub(super) async fn rows_cannot_be_filled(
    session: &Session,
    source: &Table,
) -> Result<Option<String>> {
    if source.forces_row_security() {
        let why =
            "rows would be filled by the owner, whom row security is forced on: it would hide some";
        return Ok(Some(why.to_owned()));
    }
    // A trigger for certain columns does not know the new one. (16: UPDATE.)
    let sql = "SELECT 'trigger ' || t.tgname FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal \
                 AND t.tgenabled IN ('O', 'A') AND (t.tgtype::pg_catalog.int4 & 16) <> 0 AND t.tgattr::pg_catalog.text = '' \
               UNION ALL SELECT 'rule ' || r.rulename FROM pg_catalog.pg_rewrite r \
               WHERE r.ev_class = $1 AND r.ev_type = '2' AND r.ev_enabled IN ('O', 'A')";
    let fires: Vec<String> =
        session.query(sql, &[&source.oid]).await?.iter().map(|row| row.get(0)).collect();
    let why = || format!("rows would be filled by UPDATE, which fires {}", fires.join(", "));
    Ok((!fires.is_empty()).then(why))
}
