//! What runs beside the phases of a stretch: who captures, keeps, truncates, watches and throttles.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::begun::Known;
use super::context::Context;
use super::newcomers::Newcomers;
use super::stretch::Stretch;
use super::supervisor::Background;
use super::voice::Unthrottled;
use super::watch::{self, Watch};
use super::{governor, room, store};
use crate::catalog::{Baseline, Fingerprint, Table};
use crate::error::Result;
use crate::flow::Flow;
use crate::flow::capture::{Fence, Tracker, capture};
use crate::flow::keeper::Keeper;
use crate::flow::truncate::Truncator;
use crate::flow::write::{Door, Writer};
use crate::pg::sqlstate::classify;
use crate::pg::{Lsn, Session};
use crate::telemetry::{Meter, Sample, Timed};
use crate::throttle::account::Account;
use crate::throttle::valve::Valve;
use crate::wal::ReplicationStream;

/// A slot's stream, and where it begins.
pub(super) type Stream = (ReplicationStream, Lsn);

impl Stretch<'_, '_> {
    /// Does `work` while everybody else does theirs; all of them have ended afterwards. Without a stream
    /// nothing is captured, and nobody needs a slot.
    pub(super) async fn accompanied<T>(
        &self,
        control: &Session,
        known: &Known,
        mut flow: Flow,
        fingerprint: Fingerprint,
        stream: Option<Stream>,
        work: impl AsyncFnOnce(&Context, &Baseline) -> Result<T>,
    ) -> Result<T> {
        let (guard, source) = (&self.supervisor, &known.source);
        // Until the governor has looked.
        let held = Sender::new(Some("for the operator's settings".to_owned()));
        let captures = stream.is_some();
        flow.target.room =
            room::of(self.run.connector, &self.writer(source), known, &self.run.meter);
        let flow = Arc::new(flow);
        let context = self.context(source, flow, held.subscribe()).await?;
        let mut background = match stream {
            Some(stream) => self.follow(control, &context, stream).await?,
            None => Vec::new(),
        };
        let baseline = Arc::new(Baseline::new(fingerprint.clone()));
        let came = Arc::new(Notify::new());
        let watch = Watch {
            session: context.session("watch").await?,
            flow: Arc::clone(&context.flow),
            epoch: self.epoch,
            baseline: Arc::clone(&baseline),
            divided_alike: known.is_divided_alike(),
            came: Arc::clone(&came),
            kept: fingerprint,
            supervisor: guard.clone(),
        };
        background.push(guard.spawn(|end| watch.run(end)));
        if source.is_partitioned() {
            let newcomers = Newcomers {
                session: context.session("newcomers").await?,
                flow: Arc::clone(&context.flow),
                epoch: self.epoch,
                baseline: Arc::clone(&baseline),
                tracker: Arc::clone(&context.tracker),
                valve: context.valve.clone(),
                divided_alike: known.is_divided_alike(),
                came,
                supervisor: guard.clone(),
                begun: HashMap::new(),
            };
            background.push(guard.spawn(|end| newcomers.run(end)));
        }
        let governor = governor::start(self.run, guard, &context, held, (source, captures));
        background.extend(governor.await?);
        let done = guard.guard(work(&context, &baseline)).await;
        for task in background {
            task.finish().await;
        }
        match done {
            Ok(done) => Ok(done),
            // What is lost with its connection is asked for again by the next stretch.
            Err(e) if classify(&e).passes() => Err(e),
            Err(e) => {
                let connector = self.run.connector;
                Err(watch::explain(connector, &context.flow, &baseline, e).await)
            }
        }
    }

    fn writer(&self, source: &Table) -> Writer {
        let owner = source.owner.clone();
        Writer { migration: self.migration, epoch: self.epoch, owner }
    }

    pub(super) async fn context(
        &self,
        source: &Table,
        flow: Arc<Flow>,
        held: Receiver<Option<String>>,
    ) -> Result<Context> {
        let tracker = Arc::new(Tracker::default());
        let timed = self.run.meter.clone();
        Ok(Context {
            connector: self.run.connector.clone(),
            flow,
            writer: self.writer(source),
            fence: Fence::new(
                self.session("fence").await?,
                Arc::clone(&tracker),
                self.migration,
                move |took| timed.took(Timed::Fence, took),
            ),
            tracker,
            door: Door::default(),
            meter: self.run.meter.clone(),
            valve: Valve::default(),
            sync_valve: Valve::default(),
            account: Account::default(),
            worked: Arc::default(),
            unthrottled: Unthrottled::default(),
            held,
            settings: self.run.live.subscribe(),
        })
    }

    /// Starts capture, keeper and truncator.
    async fn follow(
        &self,
        control: &Session,
        context: &Context,
        (stream, start): Stream,
    ) -> Result<Vec<Background>> {
        let (flow, tracker) = (&context.flow, &context.tracker);
        let (on_disk, truncate) = store::dirty(control, flow).await?;
        {
            let mut dirty = tracker.dirty();
            dirty.restore(on_disk, truncate);
            dirty.advance(start);
        }
        tracker.confirm(start);
        let sql =
            "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text";
        let next_xid: u64 = control.one(sql, &[]).await?.get::<_, &str>(0).parse().unwrap_or(3);
        let most = context.now(|settings| settings.keeper.most_keys);
        let captured = {
            let (flow, tracker) = (Arc::clone(flow), Arc::clone(tracker));
            self.supervisor.spawn(|end| capture(stream, flow, tracker, next_xid, most, end))
        };
        let keeper = Keeper {
            session: self.session("keeper").await?,
            flow: Arc::clone(flow),
            writer: context.writer.clone(),
            tracker: Arc::clone(tracker),
            limits: context.now(|settings| settings.keeper),
        };
        let truncator = Truncator {
            session: self.session("truncate").await?,
            flow: Arc::clone(flow),
            writer: context.writer.clone(),
            tracker: Arc::clone(tracker),
            door: context.door.clone(),
        };
        let watched = (Arc::clone(tracker), context.meter.clone());
        Ok(vec![
            captured,
            self.supervisor.spawn(|end| keeper.keep(end)),
            self.supervisor.spawn(|end| truncator.follow(end)),
            self.supervisor.spawn(|end| tell_backlog(watched.0, watched.1, end)),
        ])
    }
}

async fn tell_backlog(tracker: Arc<Tracker>, meter: Meter, end: CancellationToken) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = end.cancelled() => return Ok(()),
            _ = tick.tick() => {
                let (backlog, synced) = tracker.counts();
                meter.tell(Sample::Dirty(backlog, synced));
            }
        }
    }
}
