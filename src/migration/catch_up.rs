//! Phase "catch up": sync workers beside everything that follows, and the wait until few keys are
//! left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::flow::capture::Tracker;
use crate::flow::sync::{FENCE_LIMIT, Syncer};
use crate::flow::write::{Door, Writer};
use crate::pg::Connector;
use crate::telemetry::{Meter, Timed};
use crate::throttle::valve::Valve;

use super::context::Context;
use super::run::Settings;
use super::supervisor::{Background, Supervisor};
use super::workers::as_many;

/// With so few keys left, one transaction takes care of the rest.
const FEW: u64 = 5_000;
/// Keys clash, and for so long no fewer are left: the data may have duplicates.
const STALLED: Duration = Duration::from_secs(10);
/// After so long without getting there, say so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the sync workers. More than one only where keys that differ in their bytes are different
/// keys (**Invariant 4**).
pub(super) fn start(context: &Context, supervisor: &Supervisor) -> Background {
    context.tracker.start_reloading();
    let is_canonical = context.flow.is_canonical();
    let most = move |settings: &Settings| if is_canonical { settings.copy.workers } else { 1 };
    let (settings, syncs) = (context.settings.clone(), Arc::new(Syncs::of(context)));
    supervisor.spawn(|end| async move {
        // Each a task of its own, on whatever processor is free; they end with this one.
        let worker = |number| {
            let (syncs, end) = (Arc::clone(&syncs), end.clone());
            let work =
                AbortOnDropHandle::new(tokio::spawn(async move { syncs.work(number, end).await }));
            async move { work.await.unwrap_or_else(|e| Err(Error::failed(e.to_string()))) }
        };
        as_many(settings, most, worker).await
    })
}

/// What the sync workers share.
struct Syncs {
    connector: Connector,
    flow: Arc<Flow>,
    writer: Writer,
    tracker: Arc<Tracker>,
    door: Door,
    valve: Valve,
    meter: Meter,
}

impl Syncs {
    fn of(context: &Context) -> Syncs {
        Syncs {
            connector: context.connector.clone(),
            flow: Arc::clone(&context.flow),
            writer: context.writer.clone(),
            tracker: Arc::clone(&context.tracker),
            door: context.door.clone(),
            valve: context.sync_valve.clone(),
            meter: context.meter.clone(),
        }
    }

    /// The worker `number`, from 0.
    async fn work(&self, number: usize, end: CancellationToken) -> Result<()> {
        let role = format!("{}/sync {}", self.flow.migration, number + 1);
        let session = self.connector.session(&role).await?;
        let syncer = Syncer::new(session, Arc::clone(&self.flow), self.writer.clone()).await?;
        let report = |took| self.meter.took(Timed::Sync, took);
        syncer.work(&self.tracker, &self.door, (&self.valve, number), end, report).await
    }
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
