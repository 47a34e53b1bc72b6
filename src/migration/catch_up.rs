//! Phase "catch up": sync workers beside everything that follows, and the wait until few keys are
//! left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::flow::sync::{FENCE_LIMIT, Syncer};
use crate::telemetry::Timed;

use super::context::Context;
use super::supervisor::{Background, Supervisor};

/// With so few keys left, one transaction takes care of the rest.
const FEW: u64 = 5_000;
/// Keys clash, and for so long no fewer are left: the data may have duplicates.
const STALLED: Duration = Duration::from_secs(10);
/// After so long without getting there, say so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the sync workers. More than one only where keys that differ in their bytes are different
/// keys (**Invariant 4**).
pub(super) async fn start(
    context: &Context,
    supervisor: &Supervisor,
    workers: usize,
) -> Result<Vec<Background>> {
    let workers = if context.flow.is_canonical() { workers.max(1) } else { 1 };
    context.tracker.start_reloading();
    let mut tasks = Vec::new();
    for n in 0..workers {
        let session = context.session(&format!("sync {}", n + 1)).await?;
        let syncer =
            Syncer::new(session, Arc::clone(&context.flow), context.writer.clone()).await?;
        let (tracker, door) = (Arc::clone(&context.tracker), context.door.clone());
        let (valve, meter) = (context.sync_valve.clone(), context.meter.clone());
        tasks.push(supervisor.spawn(|end| async move {
            let report = |took| meter.took(Timed::Sync, took);
            syncer.work(&tracker, &door, (&valve, n), end, report).await
        }));
    }
    Ok(tasks)
}

/// Waits until what was committed up to now is in, and few keys are left to sync. Those that were tried in
/// vain are not waited for: where the data has duplicates they stay, and a full sync says so. Where memory does
/// not hold them all, no full sync comes to that: then they are looked for here.
pub(super) async fn drain(context: &Context) -> Result<()> {
    context.fence.pass(FENCE_LIMIT).await?;
    let mut arrivals = context.tracker.arrivals();
    let started = Instant::now();
    let mut told = false;
    let (mut least, mut stalled) = ((u64::MAX, started), STALLED);
    let mut progress = (u64::MAX, started);
    loop {
        let (backlog, in_vain, on_disk) = {
            let dirty = context.tracker.dirty();
            (dirty.backlog(), dirty.in_vain(), dirty.on_disk())
        };
        if backlog - in_vain <= FEW && on_disk == 0 {
            return Ok(());
        }
        if backlog < least.0 {
            least = (backlog, Instant::now());
        } else if in_vain > 0 && on_disk > 0 && least.1.elapsed() > stalled {
            look_for_duplicates(context).await?;
            // It writes what it takes back, and the sync may only be resting for a standby.
            (least, stalled) = ((backlog, Instant::now()), stalled * 2);
        }
        if !told && started.elapsed() > PATIENCE {
            told = true;
            context.meter.note(format!(
                "{backlog} changed keys are still waiting{}: the application changes rows about as \
                 fast as they can be applied; more --workers may help",
                clashing(in_vain)
            ));
        }
        // What rests for a standby does not come nearer, and is to rest.
        if backlog < progress.0 || !context.sync_valve.lets(0) {
            progress = (backlog.min(progress.0), Instant::now());
        }
        if progress.1.elapsed() > PATIENCE * 240 {
            let what = "the shadow does not catch up with the changes";
            return Err(Error::failed(format!(
                "{what}: {backlog} keys wait{}, and for two hours there have been no fewer",
                clashing(in_vain)
            ))
            .next("Go on with more --workers, or at a calmer time"));
        }
        let _ = timeout(Duration::from_millis(50), arrivals.changed()).await;
    }
}

async fn look_for_duplicates(context: &Context) -> Result<()> {
    let session = context.session("duplicates").await?;
    let reader = context.session("stored keys").await?;
    let syncer = Syncer::new(session, Arc::clone(&context.flow), context.writer.clone()).await?;
    syncer.look_for_duplicates(&context.tracker, &context.door, &context.fence, &reader).await
}

fn clashing(keys: u64) -> String {
    match keys {
        0 => String::new(),
        keys => format!(
            ", {keys} of them for a value that another row has in a unique index (or the data has duplicates)"
        ),
    }
}
