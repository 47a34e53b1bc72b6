//! The statements of a copy, phase by phase: those that a run executes, rendered by the same functions.

use super::PhaseSql;
use crate::catalog::{self, Table};
use crate::change::Plan;
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::sql::Bounds;
use crate::migration::prepare;
use crate::pg::Session;
use crate::shadow::{self, Names, Step, Swap, TemporaryNames};
use crate::wal::create_slot_sql;

/// What a run would execute. The names that it exchanges at the end are those that PostgreSQL gives: so the
/// shadow is made, empty, in a transaction that is rolled back.
pub(super) async fn statements(
    session: &Session,
    source: &Table,
    plan: &Plan,
    flow: &Flow,
    names: &Names,
) -> Result<Vec<PhaseSql>> {
    let target = &plan.target;
    let temporary = TemporaryNames::of(target);
    let indexes = shadow::index_plans(target, &names.shadow, |name| temporary.until_swap(name));
    let create = shadow::create_table(target, &names.shadow);
    let index: Vec<String> = indexes
        .iter()
        .flat_map(|index| [Some(index.create.clone()), index.attach.clone()].into_iter().flatten())
        .collect();
    let swap = swap(session, source, plan, flow, names, &create, &index).await?;
    let view = flow.captured.view();
    let view = view.map(|view| shadow::create_rows_view(view, source, plan.keep.as_deref()));
    let both = Bounds { lower: true, upper: true };
    let phase = |phase, note: &str, sql| PhaseSql { phase, note: note.to_owned(), sql };
    let (exchange, afterwards) = swap;
    Ok(vec![
        phase(
            "prepare",
            "the slot waits for every open write transaction of the server; the table is only read",
            view.into_iter()
                .chain([
                    prepare::publication_sql(flow, source),
                    create_slot_sql(&flow.slot, session.version()),
                    create,
                ])
                .collect(),
        ),
        phase(
            "copy",
            "one transaction a range of the key; as fast as the limits leave room",
            vec![flow.copy_range(both)],
        ),
        phase(
            "index",
            "on the new table; CONCURRENTLY where the slot would hold back too much meanwhile; then VACUUM and ANALYZE",
            index,
        ),
        phase(
            "catch up",
            "for the keys that the stream has told, again and again",
            vec![flow.sync_delete(), flow.sync_upsert()],
        ),
        phase(
            "verify",
            "every range of both tables is read and compared; nothing is written but the state",
            Vec::new(),
        ),
        phase("cutover", "one transaction, under the locks below", exchange),
        phase("validate", "after the swap; reads and writes pass", afterwards),
    ])
}

/// What exchanges the names, and what is left to do after it.
async fn swap(
    session: &Session,
    source: &Table,
    plan: &Plan,
    flow: &Flow,
    names: &Names,
    create: &str,
    index: &[String],
) -> Result<(Vec<String>, Vec<String>)> {
    session
        .batch("BEGIN; SET LOCAL lock_timeout = 250; SET LOCAL statement_timeout = 5000")
        .await?;
    let made = async {
        let steps: Vec<Step> = std::iter::once(create)
            .chain(index.iter().map(String::as_str))
            .map(|sql| Step::by(&source.owner, sql))
            .collect();
        session.batch(&shadow::statements(&steps[..1]).join(";\n")).await?;
        prepare::shadow_settings(session, flow, &plan.target).await?;
        session.batch(&shadow::statements(&steps[1..]).join(";\n")).await?;
        let shadow = catalog::read_named(session, &names.shadow).await?;
        let sql = "SELECT ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
            WHERE c.relnamespace = (SELECT s.relnamespace FROM pg_catalog.pg_class s WHERE s.oid = $1) \
            UNION SELECT x.stxname FROM pg_catalog.pg_statistic_ext x)";
        let taken: Vec<String> = session.one(sql, &[&source.oid]).await?.get(0);
        Ok::<_, Error>((shadow.ok_or_else(|| Error::failed("the new table vanished"))?, taken))
    };
    let made = made.await;
    session.rollback().await;
    let (shadow, taken) = made?;
    let taken = taken.into_iter().collect();
    let (target, carried) = (&plan.target, &plan.carried[..]);
    let swap = Swap { names, source, target, shadow: &shadow, carried, taken: &taken };
    Ok((shadow::statements(&swap.steps()), shadow::statements(&swap.afterwards())))
}
