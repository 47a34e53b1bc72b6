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
use crate::migration::prepare;
use crate::pg::{QualifiedName, Session};
use crate::shadow::{self, IndexPlan};

use super::size;

/// An index of the partitioned table.
pub(super) struct Whole {
    name: QualifiedName,
    create: Vec<String>,
    /// The indexes of its partitions.
    parts: Vec<QualifiedName>,
    pub(super) plan: IndexPlan,
}

/// What is built of the indexes `plans` of the root, in the order of the partitions: one is read for all of its
/// indexes while it is in memory.
pub(super) fn divide(
    context: &Context,
    partitioning: &Partitioning,
    source: &Table,
    target: &Table,
    plans: Vec<IndexPlan>,
) -> (Vec<Planned>, Vec<Whole>) {
    let root = &context.flow.target.root;
    let mut planned = Vec::new();
    let mut wholes: Vec<Whole> = plans
        .into_iter()
        .map(|plan| Whole {
            name: root.sibling(&plan.temporary),
            create: shadow::create_root_index(target, &plan.index, root, &plan.temporary),
            parts: Vec::new(),
            plan,
        })
        .collect();
    for leaf in prepare::partitions(&context.flow, partitioning) {
        // In the order of the root's.
        let own = shadow::index_plans(&leaf, &leaf.qualified(), str::to_owned);
        for plan in own {
            let Some(whole) =
                wholes.iter_mut().find(|whole| whole.plan.index.oid == plan.index.oid)
            else {
                continue;
            };
            whole.parts.push(leaf.qualified().sibling(&plan.temporary));
            let extent = size::extent(&whole.plan, source, target);
            planned.push(Planned {
                of: whole.plan.name.clone(),
                on: leaf.qualified(),
                extent,
                plan,
            });
        }
    }
    (planned, wholes)
}

/// Makes the indexes of the root of those of all its partitions. Done again where a crash cut it short:
/// to attach what is attached is no error.
pub(super) async fn join(context: &Context, wholes: &[Whole]) -> Result<()> {
    if wholes.is_empty() {
        return Ok(());
    }
    let session = context.session("indexes").await?;
    for whole in wholes {
        let mut sql = match is_there(context, &session, whole).await? {
            true => Vec::new(),
            false => whole.create.clone(),
        };
        sql.extend(whole.parts.iter().map(|part| shadow::attach_index(&whole.name, part)));
        build::as_owner(context, &session, &sql.join(";\n"))
            .await
            .map_err(|e| e.context(format!("making index {} of its parts", whole.plan.name)))?;
        failpoint!("index joined");
    }
    Ok(())
}

async fn is_there(context: &Context, session: &Session, whole: &Whole) -> Result<bool> {
    let root = read_named(session, &context.flow.target.root).await?;
    let root = root.ok_or_else(|| Error::failed("the shadow is gone"))?;
    Ok(root.indexes.iter().any(|index| index.name == whole.plan.temporary))
}
