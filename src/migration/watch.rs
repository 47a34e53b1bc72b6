//! Looks at the source and our publication all the time, not only between phases.
//!
//! A replica identity that the publication's columns do not cover makes the application's own
//! updates and deletes fail, until the publication is gone: that cannot wait for the next phase of a
//! copy that takes hours. The checks at verification and under the cutover lock remain what the swap
//! relies on.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use super::{store, teardown};
use crate::catalog::{self, Fingerprint, FingerprintReader};
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::pg::{Connector, Session};

const EVERY: Duration = Duration::from_millis(500);
/// At every so manieth look, also at what may have come to hang on the source and cannot follow it:
/// better said now than after the copy.
const ATTACHMENTS: u32 = 10;

/// Stops the run once `before` no longer holds, and drops the publication at once; ends in peace once the names are swapped.
pub(super) async fn watch(
    session: Session,
    flow: Arc<Flow>,
    before: Fingerprint,
    supervisor: Supervisor,
    end: CancellationToken,
) -> Result<()> {
    let reader = FingerprintReader::prepare(&session).await?;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in 0u32.. {
        tokio::select! {
            _ = end.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let now = reader.read(&session, flow.captured.oid, &flow.publication).await?;
        if let Err(e) = before.check(&now, &flow.captured.name.to_string()) {
            // Our own swap changes it too. Asked afterwards: what was seen has then committed.
            if store::is_swapped(&session, flow.migration).await? {
                return Ok(());
            }
            // Told first: without its publication the stream breaks, and that is not the reason.
            supervisor.fail(e);
            return teardown::drop_publication(&session, &flow.publication).await;
        }
        if n % ATTACHMENTS == 0
            && let Err(e) = catalog::check_attachments(&session, flow.captured.oid).await
        {
            return if store::is_swapped(&session, flow.migration).await? {
                Ok(())
            } else {
                Err(e)
            };
        }
    }
    Ok(())
}

/// What failed may have failed because somebody changed the source: then that is what to tell.
pub(super) async fn explain(
    connector: &Connector,
    flow: &Flow,
    before: &Fingerprint,
    error: Error,
) -> Error {
    if matches!(error.kind(), Kind::Stopped | Kind::NotResumable) {
        return error;
    }
    match look(connector, flow, before).await {
        Ok(Err(changed)) => {
            tracing::debug!("followed from the change: {error}");
            changed
        }
        Ok(Ok(())) | Err(_) => error,
    }
}

async fn look(
    connector: &Connector,
    flow: &Flow,
    before: &Fingerprint,
) -> Result<std::result::Result<(), Error>> {
    let session = connector.session(&format!("{}/why", flow.migration)).await?;
    if store::is_swapped(&session, flow.migration).await? {
        return Ok(Ok(()));
    }
    let now = catalog::fingerprint(&session, flow.captured.oid, &flow.publication).await?;
    Ok(before.check(&now, &flow.captured.name.to_string()))
}
