//! Indexes of a partitioned table. They are built partition by partition, each in a transaction of its own, so
//! that the slot is held back for one partition's build alone, and CONCURRENTLY where the partition is large. Then
//! the table's index is made of them, which looks at no row.

use super::Planned;
use super::build;
use crate::catalog::{Table, read_named};
use crate::change::partition::Partitioning;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::migration::context::Context;
use crate::pg::{QualifiedName, Session};
use crate::shadow::{self, IndexPlan};

use super::size;

/// An index of the partitioned table, or of a partition that has partitions itself.
pub(super) struct Whole {
    /// What it is on.
    on: QualifiedName,
    /// Its name until the swap.
    index: String,
    create: Vec<String>,
    /// The indexes of its partitions.
    parts: Vec<QualifiedName>,
}

/// What is built of the indexes `plans` of the root, in the order of the partitions: one is read for all of its
/// indexes while it is in memory. And what is put together of that afterwards, parts before what they are parts of.
pub(super) fn divide(
    context: &Context,
    partitioning: &Partitioning,
    source: &Table,
    target: &Table,
    plans: Vec<IndexPlan>,
) -> (Vec<Planned>, Vec<Whole>) {
    let root = &context.flow.target.root;
    let partitions = partitioning.partitions.all();
    let tables = partitioning.tables_of(&partitions, root);
    let of_table = |table: &Table| shadow::index_plans(table, &table.qualified(), str::to_owned);
    let mut planned = Vec::new();
    for leaf in tables.iter().filter(|table| table.kind != 'p') {
        for plan in of_table(leaf) {
            let whole = plans.iter().find(|whole| whole.index.oid == plan.index.oid);
            let Some(whole) = whole else { continue };
            let extent = size::extent(whole, source, target);
            planned.push(Planned { of: whole.name.clone(), on: leaf.qualified(), extent, plan });
        }
    }
    // The index of each partition that this one's index is made of.
    let parts = |of: Option<&str>, plan: &IndexPlan| -> Vec<QualifiedName> {
        let parts = partitions.iter().zip(&tables);
        parts
            .filter(|(partition, _)| partition.of.as_deref() == of)
            .filter_map(|(_, table)| {
                let own = table.indexes.iter().find(|own| own.oid == plan.index.oid)?;
                Some(table.qualified().sibling(&own.name))
            })
            .collect()
    };
    let mut wholes = Vec::new();
    for table in tables.iter().rev().filter(|table| table.kind == 'p') {
        let own = of_table(table).into_iter();
        let wanted = own.filter(|own| plans.iter().any(|plan| plan.index.oid == own.index.oid));
        wholes.extend(wanted.map(|plan| Whole {
            on: table.qualified(),
            create: shadow::create_root_index(
                table,
                &plan.index,
                &table.qualified(),
                &plan.temporary,
            ),
            parts: parts(Some(&table.name), &plan),
            index: plan.temporary,
        }));
    }
    wholes.extend(plans.into_iter().map(|plan| Whole {
        on: root.clone(),
        create: shadow::create_root_index(target, &plan.index, root, &plan.temporary),
        parts: parts(None, &plan),
        index: plan.temporary,
    }));
    (planned, wholes)
}

/// Makes the indexes of the root, and of what is partitioned below it, of those of all their partitions. Done again where a crash cut it short:
/// to attach what is attached is no error.
pub(super) async fn join(context: &Context, wholes: &[Whole]) -> Result<()> {
    if wholes.is_empty() {
        return Ok(());
    }
    let session = context.session("indexes").await?;
    for whole in wholes {
        let mut sql = match is_there(&session, whole).await? {
            true => Vec::new(),
            false => whole.create.clone(),
        };
        sql.extend(
            whole
                .parts
                .iter()
                .map(|part| shadow::attach_index(&whole.on.sibling(&whole.index), part)),
        );
        build::as_owner(context, &session, &sql.join(";\n"))
            .await
            .map_err(|e| e.context(format!("making index {} of its parts", whole.index)))?;
        failpoint!("index joined");
    }
    Ok(())
}

async fn is_there(session: &Session, whole: &Whole) -> Result<bool> {
    let on = read_named(session, &whole.on).await?;
    let on = on.ok_or_else(|| Error::failed(format!("the shadow {} is gone", whole.on)))?;
    Ok(on.indexes.iter().any(|index| index.name == whole.index))
}
