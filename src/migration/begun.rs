//! What a stretch begins with: a flow, and the stream that says what changes. Made anew as long as
//! nothing was copied; later on, what is kept of it must still be true.

use serde_json::Value;

use super::beside::Stream;
use super::store::{self, Kept, Stored};
use super::{Phase, prepare, slot, teardown, watch};
use crate::catalog::{self, Fingerprint, Table};
use crate::change::partition::{self, Partitioning, Partitions};
use crate::change::{self, Plan, Request};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::flow::{Flow, Target};
use crate::pg::sqlstate::UNDEFINED_TABLE;
use crate::pg::{Connector, Lsn, Session};
use crate::preflight;
use crate::shadow::Names;
use crate::telemetry::Meter;
use crate::wal::ReplicationStream;

/// What is known before rows are moved.
pub(super) struct Known {
    pub(super) source: Table,
    pub(super) target: Table,
    /// How it is partitioned, where it is.
    pub(super) partitioning: Option<Partitioning>,
    pub(super) request: Request,
    pub(super) names: Names,
}

impl Known {
    /// The source is a partitioned table, and so is the new one, in the same way.
    pub(super) fn is_divided_alike(&self) -> bool {
        self.source.is_partitioned() && self.request.keeps_partitions()
    }
}

/// What a stretch begins with.
pub(super) struct Begun {
    pub(super) known: Known,
    pub(super) flow: Flow,
    pub(super) fingerprint: Fingerprint,
    pub(super) stream: ReplicationStream,
    pub(super) start: Lsn,
    /// How far the migration had come.
    pub(super) at: Phase,
    /// The slot is new: whoever wrote before must end before anything is read (**Invariant 1**).
    pub(super) new_slot: bool,
    /// Rows that are there must be compared before anything relies on them.
    pub(super) unproven: bool,
}

/// What a dry run begins with.
pub(super) struct Rehearsing {
    pub(super) known: Known,
    pub(super) flow: Flow,
    pub(super) fingerprint: Fingerprint,
    pub(super) stream: Option<Stream>,
}

/// Makes it.
pub(super) struct Making<'a> {
    pub(super) connector: &'a Connector,
    pub(super) control: &'a Session,
    pub(super) stored: &'a Stored,
    pub(super) epoch: i64,
    pub(super) meter: &'a Meter,
}

impl Making<'_> {
    /// Publication, slot and flow, whatever an earlier attempt at them has left. `fresh` is what preflight
    /// looked at just now.
    pub(super) async fn anew(&self, fresh: Option<(Table, Plan)>) -> Result<Begun> {
        let (control, stored) = (self.control, self.stored);
        let (source, plan) = match fresh {
            Some(fresh) => fresh,
            None => {
                slot::check_cluster(control, stored).await?;
                teardown::undo(control, stored, self.meter).await?;
                let source = self.source().await?;
                let mut plan = change::rehearse(control, &source, &stored.request).await?;
                let sessions = (self.connector, control);
                let (names, request) = (&stored.names, &stored.request);
                partition::lay_out(sessions, &source, names, &mut plan, request).await?;
                (source, plan)
            }
        };
        let (known, flow) = self.describe(source, plan).await?;
        let fingerprint = self.publish(&known, &flow).await?;
        self.refuse_changed_parts(&known.source).await?;
        store::keep_fingerprint(control, &flow, &fingerprint).await?;
        let (stream, start) =
            prepare::create_slot(self.connector, control, &flow, self.meter).await?;
        Ok(Begun {
            known,
            flow,
            fingerprint,
            stream,
            start,
            at: Phase::Prepare,
            new_slot: true,
            unproven: false,
        })
    }

    /// The publication, and what the source was then.
    ///
    /// `known.source` was read before that, and the hook in between may have taken minutes. A partition that came since is
    /// in the publication as part of the table, whatever it is; so the fingerprint must not know it: then whoever
    /// watches finds it new, and looks whether its rows can be followed.
    async fn publish(&self, known: &Known, flow: &Flow) -> Result<Fingerprint> {
        let made = prepare::create_publication(self.control, flow, &known.source).await;
        failpoint!("publication made");
        let renamed = match made {
            Err(e) if e.sqlstate() == Some(UNDEFINED_TABLE) => Some(e),
            made => made.map(|()| None)?,
        };
        let now = catalog::fingerprint(self.control, flow.watched()).await?;
        let name = known.source.qualified();
        let again = |what: String| Err(Error::failed(what).next("Start again"));
        let parts: Vec<u32> = known.source.parts.iter().map(|part| part.oid).collect();
        if let Some(gone) = known.source.parts.iter().find(|part| !now.has_partition(part.oid)) {
            let part = gone.qualified();
            return again(format!(
                "the partition {part} of {name} was dropped or detached just now"
            ));
        }
        if let Some(e) = renamed {
            return again(format!(
                "{name}, or a partition of it, was renamed or dropped just now: {}",
                e.what()
            ));
        }
        let fingerprint = now.knowing(&parts);
        if known.is_divided_alike() && !now.new_partitions(&fingerprint).is_empty() {
            return again(format!(
                "a partition came to {name} just now, and the new table would have none like it"
            ));
        }
        Ok(fingerprint)
    }

    /// What was looked at before the publication was made may have been altered since. From the fingerprint on, which was
    /// read before this, it is noticed.
    async fn refuse_changed_parts(&self, source: &Table) -> Result<()> {
        if !source.is_partitioned() {
            return Ok(());
        }
        let Some(mut now) = catalog::read(self.control, source.oid).await? else { return Ok(()) };
        now.parts.retain(|part| source.parts.iter().any(|known| known.oid == part.oid));
        preflight::refuse_parts(&now).map_or(Ok(()), Err)
    }

    /// What a dry run begins with. Without capture there is no publication and no slot.
    pub(super) async fn rehearsal(
        &self,
        (source, plan): (Table, Plan),
        captures: bool,
    ) -> Result<Rehearsing> {
        if captures {
            let Begun { known, flow, fingerprint, stream, start, .. } =
                self.anew(Some((source, plan))).await?;
            return Ok(Rehearsing { known, flow, fingerprint, stream: Some((stream, start)) });
        }
        let (known, flow) = self.describe(source, plan).await?;
        let fingerprint = catalog::fingerprint(self.control, flow.watched()).await?;
        Ok(Rehearsing { known, flow, fingerprint, stream: None })
    }

    /// What rows will be moved how, put down in the state; and the view that they are read through, where
    /// they are.
    async fn describe(&self, source: Table, plan: Plan) -> Result<(Known, Flow)> {
        let (control, stored) = (self.control, self.stored);
        let (target, names) = (plan.target.clone(), stored.names.clone());
        let partitioning = plan.partitioning.clone();
        let keep = plan.keep.clone();
        let flow = prepare::describe_flow(control, stored.id, &source, plan, &names).await?;
        store::record_flow(control, &flow, &target, partitioning.as_ref()).await?;
        failpoint!("flow recorded");
        prepare::create_rows_view(self.connector, &flow, (&source, keep.as_deref()), self.epoch)
            .await?;
        Ok((Known { source, target, partitioning, request: stored.request.clone(), names }, flow))
    }

    /// What an earlier stretch or run began, if it still holds. A slot that is lost is made anew where
    /// `recover` says so.
    pub(super) async fn again(&self, recover: bool) -> Result<Begun> {
        let (control, stored) = (self.control, self.stored);
        let kept = store::kept(control, stored.id).await?.ok_or_else(|| {
            Error::new(
                Kind::NotResumable,
                "an older version of pgwraith began this migration, or somebody took away parts of its state",
            )
        })?;
        let was = kept.fingerprint.clone().ok_or_else(|| {
            Error::new(Kind::NotResumable, "the state does not say what the table was")
        })?;
        let source = self.source().await?;
        let mut flow = self.kept_flow(&kept, &source, was.functions()).await?;
        let now = catalog::fingerprint(control, flow.watched()).await?;
        if !was.same_source(&now) {
            was.check(&now, &stored.names.source.to_string())?;
        }
        if stored.request.keeps_partitions() && !now.new_partitions(&was).is_empty() {
            return Err(Error::new(
                Kind::NotResumable,
                format!(
                    "a partition came to {} since, and the new table has none like it",
                    source.qualified()
                ),
            ));
        }
        let (target, partitioning) = self.same_target(&source, &kept).await?;
        flow.target = prepare::target(&stored.names, &target, &kept.key, partitioning.as_ref());
        self.shadow_is_there().await?;
        let (request, names) = (stored.request.clone(), stored.names.clone());
        let known = Known { source, target, partitioning, request, names };
        let lost = slot::lost(self.connector, control, stored, &kept, &flow, (&was, &now)).await?;
        let (lost, at) = (lost, stored.phase().unwrap_or(Phase::Copy));
        let Some(why) = lost else {
            let (stream, start) = prepare::reopen_stream(self.connector, control, &flow).await?;
            let unproven = kept.unproven;
            return Ok(Begun {
                known,
                flow,
                fingerprint: was,
                stream,
                start,
                at,
                new_slot: false,
                unproven,
            });
        };
        if !recover {
            return Err(slot::cannot_go_on(&why, &stored.names));
        }
        for leaf in known.source.leaves() {
            watch::suits(&flow, leaf, false)?;
        }
        self.meter.note(format!("{why}: a new slot is made, and every row is compared"));
        // First: whatever happens from here on, what the old slot would have told is unknown.
        store::mark_unproven(control, &flow, true).await?;
        failpoint!("marked unproven");
        teardown::drop_slot(control, &flow.slot).await?;
        failpoint!("lost slot dropped");
        teardown::drop_publication(control, &flow.publication).await?;
        let fingerprint = self.publish(&known, &flow).await?;
        store::keep_fingerprint(control, &flow, &fingerprint).await?;
        store::event(control, stored.id, "recovered", &why).await?;
        let (stream, start) =
            prepare::create_slot(self.connector, control, &flow, self.meter).await?;
        Ok(Begun { known, flow, fingerprint, stream, start, at, new_slot: true, unproven: true })
    }

    async fn source(&self) -> Result<Table> {
        let (control, stored) = (self.control, self.stored);
        let name = &stored.names.source;
        let gone = |what: String| Error::new(Kind::NotResumable, what);
        let Some(source) = catalog::read(control, stored.source_oid).await? else {
            let anew = catalog::read_named(control, name).await?.is_some();
            let since = if anew { " and created anew" } else { "" };
            return Err(gone(format!("{name} was dropped{since}")));
        };
        if source.qualified() != *name {
            return Err(gone(format!("{name} is called {} now", source.qualified())));
        }
        catalog::check_attachments(control, source.oid).await?;
        let invalid = catalog::invalid_indexes(control, source.oid).await?;
        if !invalid.is_empty() {
            return Err(Error::failed(format!("{name} has {}", invalid.join(", ")))
                .next("Where none is being built, REINDEX INDEX CONCURRENTLY it or DROP it"));
        }
        Ok(source)
    }

    async fn kept_flow(&self, kept: &Kept, source: &Table, functions: Vec<String>) -> Result<Flow> {
        let (names, migration) = (&self.stored.names, self.stored.id);
        Ok(Flow {
            migration,
            number: 1,
            captured: prepare::captured(migration, source, self.stored.request.keep.is_some()),
            // Until it is known what the change makes of the source.
            target: Target::ordinary(names.shadow.clone(), false),
            projection: kept.projection.clone(),
            key: kept.key.clone(),
            // Whatever the index is by now: the ranges that are copied went along this.
            order: kept.order.clone(),
            functions,
            publication: self.stored.publication.clone(),
            // Its name says the database, and this one may be a copy.
            slot: prepare::slot_name(self.control, migration).await?,
        })
    }

    /// What the change makes of the source must be what is being filled.
    async fn same_target(
        &self,
        source: &Table,
        kept: &Kept,
    ) -> Result<(Table, Option<Partitioning>)> {
        let stored = self.stored;
        let plan = change::rehearse(self.control, source, &stored.request).await?;
        let shape = serde_json::to_value(plan.target.shape()).unwrap_or(Value::Null);
        if shape != kept.shape || plan.key != kept.key {
            return Err(Error::new(
                Kind::NotResumable,
                format!(
                    "the change makes another table of {} now than it did when the migration began",
                    stored.names.source
                ),
            ));
        }
        let partitions = Partitions::of(kept.partitions.clone());
        let partitioning = plan.partitioning.map(|p| Partitioning { partitions, ..p });
        Ok((plan.target, partitioning))
    }

    async fn shadow_is_there(&self) -> Result<()> {
        let (stored, shadow) = (self.stored, &self.stored.names.shadow);
        let there = match stored.shadow_oid {
            Some(oid) => catalog::name_of(self.control, oid).await?,
            None => None,
        };
        if there.as_ref() == Some(shadow) {
            return Ok(());
        }
        let became = there.map_or("is gone".to_owned(), |name| format!("is called {name} now"));
        Err(Error::new(Kind::NotResumable, format!("the unfinished shadow {shadow} {became}")))
    }
}
