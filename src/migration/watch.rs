//! Looks at the source and our publication all the time, not only between phases.
//!
//! A replica identity that the publication's columns do not cover makes the application's own
//! updates and deletes fail, until the publication is gone: that cannot wait for the next phase of a
//! copy that takes hours. The checks at verification and under the cutover lock remain what the swap
//! relies on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use super::{store, teardown};
use crate::catalog::{self, AttachmentsReader, Baseline, Fingerprint, FingerprintReader, Part};
use crate::change::KeyColumn;
use crate::error::{Error, Kind, Result};
use crate::flow::Flow;
use crate::pg::{Connector, Session};

const EVERY: Duration = Duration::from_millis(500);
/// At every so manieth look, also at what may have come to hang on the source and cannot follow it:
/// better said now than after the copy.
const ATTACHMENTS: u32 = 10;

/// Who looks.
pub(super) struct Watch {
    pub(super) session: Session,
    pub(super) flow: Arc<Flow>,
    pub(super) epoch: i64,
    pub(super) baseline: Arc<Baseline>,
    /// The new table is divided as the source is, and needs a partition for each of the source's.
    pub(super) divided_alike: bool,
    /// Wakes whoever takes partitions in that came.
    pub(super) came: Arc<Notify>,
    /// What the state says of the source.
    pub(super) kept: Fingerprint,
    pub(super) supervisor: Supervisor,
}

impl Watch {
    /// Stops the run once the source is not what it was; ends in peace once the names are swapped.
    pub(super) async fn run(mut self, end: CancellationToken) -> Result<()> {
        // Planned once: each look would take longer to plan than to take.
        self.session.set("plan_cache_mode", "force_generic_plan").await?;
        let reader = FingerprintReader::prepare(&self.session).await?;
        let attachments = AttachmentsReader::prepare(&self.session).await?;
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0u32.. {
            tokio::select! {
                _ = end.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let now = reader.read(&self.session, self.flow.watched()).await?;
            let table = self.flow.captured.name.to_string();
            let looked = match self.baseline.check(&now, &table) {
                Ok(()) => match self.look_at_newcomers(&now).await {
                    Err(e) if e.kind() != Kind::NotResumable => return Err(e),
                    looked => looked,
                },
                changed => changed,
            };
            if let Err(e) = looked {
                return give_up(&self.session, &self.flow, &self.supervisor, e).await;
            }
            self.keep(self.baseline.current()).await?;
            if n % ATTACHMENTS == 0
                && let Err(e) = attachments.check(&self.session, self.flow.captured.oid).await
            {
                return if store::is_swapped(&self.session, self.flow.migration).await? {
                    Ok(())
                } else {
                    Err(e)
                };
            }
        }
        Ok(())
    }

    /// Whether those that came can be followed, is known at once; to take them in may last.
    async fn look_at_newcomers(&self, now: &Fingerprint) -> Result<()> {
        let came = self.baseline.new_partitions(now);
        for &oid in &came {
            let leaf = catalog::new_leaf(&self.session, self.flow.captured.oid, oid).await?;
            leaf.map_or(Ok(()), |leaf| suits(&self.flow, &leaf, self.divided_alike))?;
        }
        if !came.is_empty() {
            self.came.notify_one();
        }
        Ok(())
    }

    /// Whoever resumes compares with the last look too. In our epoch only: a successor keeps his own.
    async fn keep(&mut self, now: Fingerprint) -> Result<()> {
        if now == self.kept {
            return Ok(());
        }
        if store::hold_epoch(&self.session, self.flow.migration, self.epoch).await? {
            store::keep_fingerprint(&self.session, &self.flow, &now).await?;
            self.session.batch("COMMIT").await?;
        }
        self.kept = now;
        Ok(())
    }
}

/// The source is not what it was: stops the run, and drops the publication at once; in peace once the names are swapped.
pub(super) async fn give_up(
    session: &Session,
    flow: &Flow,
    supervisor: &Supervisor,
    changed: Error,
) -> Result<()> {
    // Our own swap changes it too. Asked afterwards: what was seen has then committed.
    if store::is_swapped(session, flow.migration).await? {
        return Ok(());
    }
    // Told first: without its publication the stream breaks, and that is not the reason.
    supervisor.fail(changed);
    teardown::drop_publication(session, &flow.publication).await
}

/// Whether rows of a new partition can be followed.
pub(super) fn suits(flow: &Flow, leaf: &Part, divided_alike: bool) -> Result<()> {
    let (name, table) = (leaf.qualified(), &flow.captured.name);
    let unfit = |why: String| {
        Err(Error::new(
            Kind::NotResumable,
            format!("the partition {name} came to {table} while the migration ran: {why}"),
        )
        .next("Make partitions for the time of a run before it, and start again once what is left is removed"))
    };
    let known =
        |key: &KeyColumn| leaf.replica_identity == 'f' || leaf.identity.contains(&key.source);
    if divided_alike {
        return unfit("the new table, which is divided as it was, has none like it".into());
    }
    if leaf.kind != 'r' || leaf.persistence != 'p' {
        return unfit(
            "it is a foreign or an unlogged table, whose changes are in no log here".into(),
        );
    }
    match flow.key.iter().find(|key| !known(key)) {
        Some(key) => {
            unfit(format!("its replica identity does not have the key column {:?}", key.source))
        }
        None => Ok(()),
    }
}

/// What failed may have failed because somebody changed the source: then that is what to tell.
pub(super) async fn explain(
    connector: &Connector,
    flow: &Flow,
    before: &Baseline,
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
    before: &Baseline,
) -> Result<std::result::Result<(), Error>> {
    let session = connector.session(&format!("{}/why", flow.migration)).await?;
    if store::is_swapped(&session, flow.migration).await? {
        return Ok(Ok(()));
    }
    let now = catalog::fingerprint(&session, flow.watched()).await?;
    Ok(before.check(&now, &flow.captured.name.to_string()))
}
