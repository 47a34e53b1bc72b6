//! Phase "verify", and the comparison that finds out what a lost slot did not tell.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::context::Context;
use super::store;
use crate::catalog;
use crate::error::Result;
use crate::flow::chunk::{Kind, Planner};
use crate::flow::found::Findings;
use crate::flow::key::Key;
use crate::flow::pace::Pace;
use crate::flow::segment::Segment;
use crate::flow::sync::FENCE_LIMIT;
use crate::flow::verify::{Limits, Seen, Verifier};
use crate::telemetry::{Sample, Timed};

/// Rows of the first verified range.
const FIRST_RANGE: i64 = 50_000;

/// Compares every range, from the first one on; what differs is repaired and compared again. Returns what
/// was found and the keys that are too hot to compare. `named` is how many rows that differ are named.
pub(super) async fn verify(context: &Context, named: u64) -> Result<(Findings, HashSet<Key>)> {
    compare(context, named, None).await
}

/// The same over these parts of the key space alone.
pub(super) async fn verify_only(context: &Context, segments: Vec<Segment>) -> Result<Findings> {
    Ok(compare(context, u64::MAX, Some(segments)).await?.0)
}

async fn compare(
    context: &Context,
    named: u64,
    only: Option<Vec<Segment>>,
) -> Result<(Findings, HashSet<Key>)> {
    let now = context.settings.borrow().copy;
    let mut planner = Planner::new(
        context.session("verify plan").await?,
        Arc::clone(&context.flow),
        context.writer.clone(),
        Kind::Verify,
        pace(context, now.first_chunk, now.chunk_time),
    )
    .await?;
    if only.is_none() {
        let session = context.session("verified before").await?;
        store::keep_compared(&session, context.flow.migration).await?;
        context.meter.tell(Sample::ComparedAnew);
    }
    planner.start_over().await?;
    match only {
        Some(segments) => planner.only(segments),
        None => forget_what_went(context).await?,
    }
    let verifier = Verifier {
        flow: Arc::clone(&context.flow),
        writer: context.writer.clone(),
        tracker: Arc::clone(&context.tracker),
        planner: Mutex::new(planner),
        valve: context.valve.clone(),
        limits: context.now(|settings| Limits {
            workers: settings.copy.workers,
            max_snapshot_age: settings.max_snapshot_age,
            range_time: settings.copy.chunk_time,
        }),
        named,
    };
    let meter = &context.meter;
    let report = |seen| match seen {
        Seen::Compared { rows, equal, took } => {
            meter.took(Timed::Verify, took);
            if equal {
                meter.tell(Sample::Compared(rows));
            }
        }
        Seen::Differ(rows) => meter.tell(Sample::Differ(rows)),
    };
    let open = async |number: usize| context.session(&format!("verify {}", number + 1)).await;
    verifier.verify(open, &context.fence, report).await
}

/// Rows of a partition that came and went may have been read, and then the target alone has them: the cutover refuses
/// that. A comparison of all rows whose snapshots are younger finds them. So what the stream told until a fence of
/// relations that are no partitions after it is settled; to a run that goes on a slot may tell it again.
async fn forget_what_went(context: &Context) -> Result<()> {
    let flow = &context.flow;
    if !flow.captured.is_partitioned {
        return Ok(());
    }
    context.fence.pass(FENCE_LIMIT).await?;
    let told = context.tracker.told_of();
    let session = context.session("verify look").await?;
    let now = catalog::fingerprint(&session, flow.watched()).await?;
    let gone = told.into_iter().filter(|oid| *oid != flow.captured.oid && !now.has_partition(*oid));
    context.tracker.forget_told(&gone.collect());
    Ok(())
}

fn pace(context: &Context, first_chunk: i64, chunk_time: Duration) -> Pace {
    if !context.flow.keeps_order() {
        // No range of the source is a range of the shadow: all of it is one.
        return Pace::whole();
    }
    Pace::new(FIRST_RANGE.min(first_chunk.max(1) * 10), chunk_time, u64::MAX)
}
