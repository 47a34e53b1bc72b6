//! The statements of a copy, phase by phase: those that a run executes, rendered by the same functions.

use super::{PhaseSql, sampled};
use crate::catalog::{self, Table};
use crate::change::Plan;
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::sql::Bounds;
use crate::migration::prepare;
use crate::pg::{QualifiedName, Session};
use crate::shadow::{self, IndexPlan, Names, Step, Swap, TemporaryNames};
use crate::wal::create_slot_sql;

/// What a run would execute, and what became of some rows. The names that it exchanges at the end are those that
/// PostgreSQL gives: so the shadow is made, empty, in a transaction that is rolled back, and some rows are tried on it.
pub(super) async fn statements(
    session: &Session,
    source: &Table,
    plan: &Plan,
    flow: &Flow,
    names: &Names,
) -> Result<(Vec<PhaseSql>, Option<String>)> {
    let target = &plan.target;
    let temporary = TemporaryNames::of(target);
    let indexes = shadow::index_plans(target, &names.shadow, |name| temporary.until_swap(name));
    let partitioning = plan.partitioning.as_ref();
    let create = prepare::create_sql(&names.shadow, target, partitioning);
    let of_index = |index: IndexPlan| match partitioning {
        None => [Some(index.create), index.attach].into_iter().flatten().collect(),
        Some(_) => {
            shadow::create_whole_index(target, &index.index, &names.shadow, &index.temporary)
        }
    };
    let index: Vec<String> = indexes.into_iter().flat_map(of_index).collect();
    let (swap, tried) = swap(session, source, plan, flow, names, &create, &index).await?;
    let view = flow.captured.view();
    let view = view.map(|view| shadow::create_rows_view(view, source, plan.keep.as_deref()));
    let both = Bounds { lower: true, upper: true };
    let table = source.qualified();
    let reads = |how: &str| {
        vec![format!("ACCESS SHARE on {table}, {how}: keeps out ALTER TABLE and its like alone")]
    };
    let phase = |phase, note: &str, locks: Vec<String>, sql| PhaseSql {
        phase,
        note: note.to_owned(),
        locks,
        sql,
    };
    let (exchange, afterwards) = swap;
    let phases = vec![
        phase(
            "prepare",
            "the slot waits for every open write transaction of the server; the table is only read",
            vec![published(source)],
            view.into_iter()
                .chain([
                    prepare::publication_sql(flow, source),
                    create_slot_sql(&flow.slot, session.version()),
                ])
                .chain(create)
                .collect(),
        ),
        phase(
            "copy",
            "one transaction a range of the key; as fast as the limits leave room",
            reads("for one range at a time (--chunk-time)"),
            vec![flow.copy_range(both)],
        ),
        phase(
            "index",
            "on the new table; CONCURRENTLY where the slot would hold back too much meanwhile; then VACUUM and ANALYZE; those of a \
             partitioned table partition by partition, which comes to the same",
            Vec::new(),
            moved(flow).into_iter().chain(index).collect(),
        ),
        phase(
            "catch up",
            "for the keys that the stream has told, again and again",
            reads("for one batch of keys at a time"),
            vec![flow.sync_delete(), flow.sync_upsert()],
        ),
        phase(
            "verify",
            "every range of both tables is read and compared; nothing is written but the state",
            reads(
                "for --max-snapshot-age (30 s) at most, and ended at the next range for whoever waits",
            ),
            Vec::new(),
        ),
        phase(
            "cutover",
            "one transaction, under the locks below",
            vec![format!(
                "SHARE UPDATE EXCLUSIVE on {table} while the transaction is prepared, which keeps out DDL and VACUUM; then those below"
            )],
            exchange,
        ),
        phase("validate", "after the swap; reads and writes pass", proven(&afterwards), afterwards),
    ];
    Ok((phases, tried))
}

/// What CREATE PUBLICATION locks.
fn published(source: &Table) -> String {
    let parts = if source.is_partitioned() { " and on its partitions" } else { "" };
    format!(
        "SHARE UPDATE EXCLUSIVE on {}{parts}, for a moment: keeps out DDL and VACUUM, no reads and no writes",
        source.qualified()
    )
}

/// What proving foreign keys locks.
fn proven(afterwards: &[String]) -> Vec<String> {
    let proves = afterwards.iter().any(|sql| sql.contains(" VALIDATE CONSTRAINT "));
    let locks = "SHARE UPDATE EXCLUSIVE on the table whose foreign key is proven and ROW SHARE on the one that it refers to, while \
                 rows are read; ended, and begun anew, for whoever wants a lock that keeps out reads or writes";
    proves.then(|| locks.to_owned()).into_iter().collect()
}

/// Before the key's index, where rows are copied in another order: with the keys that were changed meanwhile in a
/// table that lives as long as its transaction.
fn moved(flow: &Flow) -> Vec<String> {
    let list = QualifiedName::new("pgwraith", format!("moved_{}", flow.migration));
    match flow.order {
        Some(_) => vec![flow.create_key_list(&list), flow.delete_listed(&list)],
        None => Vec::new(),
    }
}

/// What exchanges the names, what is left to do after it, and what became of the rows that were tried.
async fn swap(
    session: &Session,
    source: &Table,
    plan: &Plan,
    flow: &Flow,
    names: &Names,
    create: &[String],
    index: &[String],
) -> Result<((Vec<String>, Vec<String>), Option<String>)> {
    session
        .batch("BEGIN; SET LOCAL lock_timeout = 250; SET LOCAL statement_timeout = 5000")
        .await?;
    let made = async {
        let by_owner = |sql: &String| Step::by(&source.owner, sql);
        let create: Vec<Step> = create.iter().map(by_owner).collect();
        let index: Vec<Step> = index.iter().map(by_owner).collect();
        session.batch(&shadow::statements(&create).join(";\n")).await?;
        let tried = sampled::tried(session, source, &plan.target, flow).await?;
        prepare::shadow_settings(session, flow, &plan.target).await?;
        session.batch(&shadow::statements(&index).join(";\n")).await?;
        let shadow = catalog::read_named(session, &names.shadow).await?;
        let sql = "SELECT ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
            WHERE c.relnamespace = (SELECT s.relnamespace FROM pg_catalog.pg_class s WHERE s.oid = $1) \
            UNION SELECT x.stxname FROM pg_catalog.pg_statistic_ext x)";
        let taken: Vec<String> = session.one(sql, &[&source.oid]).await?.get(0);
        let vanished = || Error::failed("the new table vanished");
        Ok::<_, Error>((shadow.ok_or_else(vanished)?, taken, tried))
    };
    let made = made.await;
    session.rollback().await;
    let (shadow, taken, tried) = made?;
    let taken = taken.into_iter().collect();
    let (target, carried) = (&plan.target, &plan.carried[..]);
    let leaves = flow.target.leaves();
    let version = session.version();
    let renamed = plan.partitioning.as_ref().map_or_else(Vec::new, |p| p.renamed(&names.shadow));
    let swap = Swap {
        names,
        source,
        target,
        shadow: &shadow,
        carried,
        leaves: &leaves,
        renamed: &renamed,
        version,
        taken: &taken,
    };
    let exchange = shadow::statements(&swap.steps());
    Ok(((exchange, shadow::statements(&swap.afterwards())), tried))
}
