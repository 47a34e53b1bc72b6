//! Phase "copy": workers over the key space.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::flow::chunk::{Kind, Planner};
use crate::flow::copy::{Copied, Copier, Misfits};
use crate::flow::pace::Pace;
use crate::telemetry::{Sample, Timed};

use super::context::Context;
use super::run::Settings;
use super::workers::as_many;

/// The first chunk's rows, before anything is known about their speed.
const FIRST_CHUNK: i64 = 5_000;
/// A chunk writes no more log than this.
const CHUNK_WAL: u64 = 64 << 20;

/// How the copy goes about it.
#[derive(Debug, Clone, Copy)]
pub struct CopySettings {
    pub workers: usize,
    /// What a chunk should take.
    pub chunk_time: Duration,
    /// Rows of the first chunk; small ones make races in tests.
    pub first_chunk: i64,
}

impl Default for CopySettings {
    fn default() -> Self {
        CopySettings {
            workers: 2,
            chunk_time: Duration::from_millis(500),
            first_chunk: FIRST_CHUNK,
        }
    }
}

/// Copies every range. Returning is the proof that the last one was reached (**Invariant 2**).
pub(super) async fn copy(context: &Context) -> Result<()> {
    let mut planner = planner(context).await?;
    let (before, position) = planner.go_on().await?;
    planner.set_landmarks(position).await?;
    context.meter.tell(Sample::CopiedBefore(before.max(0) as u64));
    let copier = copier(context, planner, CancellationToken::new(), None);
    work_off(context, &copier, |_| ()).await?;
    let planner = copier.planner.lock().await;
    if !planner.is_complete() {
        return Err(Error::failed("the copy ended before the last range"));
    }
    planner.check().await
}

/// The planner of the copy, at the beginning of the key space.
pub(super) async fn planner(context: &Context) -> Result<Planner> {
    let now = context.settings.borrow().copy;
    Planner::new(
        context.session("plan").await?,
        Arc::clone(&context.flow),
        context.writer.clone(),
        Kind::Copy,
        Pace::new(now.first_chunk, now.chunk_time, CHUNK_WAL),
    )
    .await
}

pub(super) fn copier(
    context: &Context,
    planner: Planner,
    covered: CancellationToken,
    misfits: Option<Misfits>,
) -> Copier {
    Copier {
        flow: Arc::clone(&context.flow),
        writer: context.writer.clone(),
        door: context.door.clone(),
        tracker: Arc::clone(&context.tracker),
        worked: Arc::clone(&context.worked),
        planner: Mutex::new(planner),
        valve: context.valve.clone(),
        covered,
        aim: context.now(|settings| settings.copy.chunk_time),
        misfits,
    }
}

/// As many workers as the settings say, until all is handed out. Tells each range to `report`.
pub(super) async fn work_off(
    context: &Context,
    copier: &Copier,
    report: impl Fn(Copied),
) -> Result<()> {
    // Several would write their pages in between each other's.
    let most = |settings: &Settings| match context.flow.order {
        Some(_) => 1,
        None => settings.copy.workers,
    };
    let worker = |number| worker(context, copier, number, &report);
    as_many(context.settings.clone(), most, worker).await
}

async fn worker(
    context: &Context,
    copier: &Copier,
    number: usize,
    report: &impl Fn(Copied),
) -> Result<()> {
    let session = context.session(&format!("copy {}", number + 1)).await?;
    let tell = |copied: Copied| {
        context.meter.tell(Sample::Copied(copied.rows, copied.number));
        context.meter.took(Timed::Chunk, copied.took);
        report(copied);
    };
    copier.work(&session, number, tell).await
}
