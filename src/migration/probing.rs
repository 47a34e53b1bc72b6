//! Reads rows of the source all the time, as the application does.

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::supervisor::{Background, Supervisor};
use crate::catalog::Table;
use crate::error::Result;
use crate::flow::chunk::Kind;
use crate::flow::sample::sample;
use crate::telemetry::{Meter, Timed};
use crate::throttle::signals::{Counter, Felt, Prober};

/// A smaller table is copied in seconds.
const PROBED: i64 = 64 << 20;
/// Rows that are read in turn.
const KEYS: i64 = 500;

/// Starts whoever does, and who counts the sessions at work, where the table is worth it; also says what that felt like.
pub(super) async fn start(
    supervisor: &Supervisor,
    context: &Context,
    source: &Table,
) -> Result<Option<(Felt, [Background; 2])>> {
    let Some(prober) = prober(context, source).await? else { return Ok(None) };
    let felt = Felt::new(context.valve.clone());
    let counter = Counter::prepare(context.session("active").await?).await?;
    let (shared, counted, meter) = (felt.clone(), felt.clone(), context.meter.clone());
    let tasks = [
        supervisor.spawn(|end| probe(prober, shared, meter, end)),
        supervisor.spawn(|end| count(counter, counted, end)),
    ];
    Ok(Some((felt, tasks)))
}

/// Who probes the source: one that is copied in a moment is not worth the time that calm reads take.
async fn prober(context: &Context, source: &Table) -> Result<Option<Prober>> {
    if source.heap_bytes < PROBED || context.flow.key.is_empty() {
        return Ok(None);
    }
    let session = context.session("probe").await?;
    let by_key = context.flow.course(Kind::Verify);
    let keys = sample(&session, &context.flow, &by_key, &context.writer, KEYS).await?;
    if keys.is_empty() {
        return Ok(None);
    }
    session.set_role(&context.writer.owner).await?;
    Prober::prepare(session, &context.flow.probe(), keys).await.map(Some)
}

async fn probe(mut prober: Prober, felt: Felt, meter: Meter, end: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            took = prober.probe(&felt) => meter.took(Timed::Probe, took?),
        }
    }
}

async fn count(mut counter: Counter, felt: Felt, end: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            done = counter.count(&felt) => done?,
        }
    }
}
