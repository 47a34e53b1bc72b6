//! Phase "copy": workers over the key space.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::error::{Error, Result};
use crate::flow::chunk::{Kind, Pace, Planner};
use crate::flow::copy::Copier;
use crate::telemetry::{Meter, Sample};

use super::context::Context;

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
pub(super) async fn copy(context: &Context, settings: CopySettings) -> Result<()> {
    let mut planner = Planner::new(
        context.session("plan").await?,
        Arc::clone(&context.flow),
        context.writer.clone(),
        Kind::Copy,
        Pace::new(settings.first_chunk, settings.chunk_time, CHUNK_WAL),
    )
    .await?;
    let before = planner.go_on().await?;
    context.meter.tell(Sample::CopiedBefore(before.max(0) as u64));
    let copier = Copier {
        flow: Arc::clone(&context.flow),
        writer: context.writer.clone(),
        door: context.door.clone(),
        planner: Mutex::new(planner),
        brake: context.brake.clone(),
    };
    let mut sessions = Vec::new();
    for n in 1..=settings.workers.max(1) {
        sessions.push(context.session(&format!("copy {n}")).await?);
    }
    let report = |meter: Meter| {
        move |copied: crate::flow::copy::Copied| {
            meter.tell(Sample::Copied(copied.rows, copied.took));
        }
    };
    let workers = sessions.iter().map(|s| copier.work(s, report(context.meter.clone())));
    futures_util::future::try_join_all(workers).await?;
    if !copier.planner.lock().await.is_complete() {
        return Err(Error::failed("the copy ended before the last range"));
    }
    Ok(())
}
