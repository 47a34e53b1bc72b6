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
use crate::catalog::{self, Baseline, Fingerprint, FingerprintReader, Part};
use crate::change::KeyColumn;
use crate::error::{Error, Kind, Result};
use crate::flow::capture::Tracker;
use crate::flow::{Flow, newcomer};
use crate::pg::{Connector, Session};

const EVERY: Duration = Duration::from_millis(500);
/// At every so manieth look, also at what may have come to hang on the source and cannot follow it:
/// better said now than after the copy.
const ATTACHMENTS: u32 = 10;

/// Of a name that means no table any more.
pub(super) const UNDEFINED_TABLE: &str = "42P01";

/// Who looks.
pub(super) struct Watch {
    pub(super) session: Session,
    pub(super) flow: Arc<Flow>,
    pub(super) epoch: i64,
    pub(super) baseline: Arc<Baseline>,
    /// Told of what is found dirty.
    pub(super) tracker: Arc<Tracker>,
    /// The new table is divided as the source is, and needs a partition for each of the source's.
    pub(super) divided_alike: bool,
    /// What the state says of the source.
    pub(super) kept: Fingerprint,
    pub(super) supervisor: Supervisor,
}

impl Watch {
    /// Stops the run once the source is not what it was, and drops the publication at once; ends in peace once
    /// the names are swapped.
    pub(super) async fn run(mut self, end: CancellationToken) -> Result<()> {
        let reader = FingerprintReader::prepare(&self.session).await?;
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0u32.. {
            tokio::select! {
                _ = end.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let now =
                reader.read(&self.session, self.flow.captured.oid, &self.flow.publication).await?;
            let table = self.flow.captured.name.to_string();
            let looked = match self.baseline.check(&now, &table) {
                Ok(()) if self.baseline.new_partitions(&now).is_empty() => Ok(()),
                Ok(()) => match self.take_in(&reader).await {
                    Err(e) if e.kind() != Kind::NotResumable => return Err(e),
                    looked => looked,
                },
                changed => changed,
            };
            if let Err(e) = looked {
                // Our own swap changes it too. Asked afterwards: what was seen has then committed.
                if store::is_swapped(&self.session, self.flow.migration).await? {
                    return Ok(());
                }
                // Told first: without its publication the stream breaks, and that is not the reason.
                self.supervisor.fail(e);
                return teardown::drop_publication(&self.session, &self.flow.publication).await;
            }
            self.keep(self.baseline.current()).await?;
            if n % ATTACHMENTS == 0
                && let Err(e) =
                    catalog::check_attachments(&self.session, self.flow.captured.oid).await
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

    /// Partitions came. What was in them is dirty from here on, and that is stored together with the fingerprint that knows
    /// them: whoever resumes before that finds them new.
    async fn take_in(&mut self, reader: &FingerprintReader) -> Result<()> {
        let (session, flow) = (&self.session, &self.flow);
        if !store::hold_epoch(session, flow.migration, self.epoch).await? {
            return Ok(());
        }
        let stored = async {
            let now = reader.read(session, flow.captured.oid, &flow.publication).await?;
            self.baseline.check(&now, &flow.captured.name.to_string())?;
            let mut stored = 0u64;
            for oid in self.baseline.new_partitions(&now) {
                let Some(leaf) = catalog::new_leaf(session, flow.captured.oid, oid).await? else {
                    continue;
                };
                suits(flow, &leaf, self.divided_alike)?;
                stored += newcomer::store_all(session, flow, &leaf.qualified()).await?;
            }
            Ok::<_, Error>((now, stored))
        };
        let stored = stored.await;
        let (now, stored) = match stored {
            Ok(stored) => stored,
            Err(e) => {
                session.rollback().await;
                // Dropped or renamed since it was looked up: the next look tells which.
                return if e.sqlstate() == Some(UNDEFINED_TABLE) { Ok(()) } else { Err(e) };
            }
        };
        store::keep_fingerprint(session, flow, &self.baseline.with_partitions_of(&now)).await?;
        newcomer::commit(session, &self.tracker, stored).await?;
        self.baseline.take_in(&now);
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
    let now = catalog::fingerprint(&session, flow.captured.oid, &flow.publication).await?;
    Ok(before.check(&now, &flow.captured.name.to_string()))
}
