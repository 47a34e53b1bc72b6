//! Watches the source's shape while the phases run, so that a change is noticed in a second and not
//! hours later at verification.
//!
//! One change cannot wait at all: where the replica identity is no longer covered by the published
//! columns, the application's own UPDATE and DELETE fail as long as the publication exists. It is
//! dropped at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use super::{store, teardown};
use crate::catalog::{Fingerprint, FingerprintReader};
use crate::error::Result;
use crate::flow::Flow;
use crate::pg::Session;

const EVERY: Duration = Duration::from_millis(500);

/// Compares the fingerprint again and again until `end`; a difference stops the run.
pub(super) async fn watch(
    session: Session,
    flow: Arc<Flow>,
    before: Fingerprint,
    supervisor: Supervisor,
    end: CancellationToken,
) -> Result<()> {
    let reader = FingerprintReader::prepare(&session).await?;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = end.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let now = reader.read(&session, flow.captured.oid, &flow.publication).await?;
        if let Err(changed) = before.check(&now, &flow.captured.name.to_string()) {
            // The swap itself renames the source; its outcome commits with the names.
            if end.is_cancelled() || store::is_swapped(&session, flow.migration).await? {
                return Ok(());
            }
            // Told first: without its publication the stream breaks, and that is not the reason.
            supervisor.fail(changed);
            return teardown::drop_publication(&session, &flow.publication).await;
        }
    }
}
