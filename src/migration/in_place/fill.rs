//! Gives the rows that were there a value in a new column, as fast as the throttle lets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::violating;
use super::work::{Did, Steps};
use crate::catalog;
use crate::change::trial::{self, Does};
use crate::change::{KeyColumn, own_key};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::flow::Flow;
use crate::flow::chunk::{Kind, Planner};
use crate::flow::copy::Copied;
use crate::flow::fill::Filler;
use crate::flow::pace::Pace;
use crate::migration::run::Settings;
use crate::migration::store::{self, StoredStep};
use crate::migration::workers::as_many;
use crate::pg::sqlstate::{Class, classify};
use crate::telemetry::{Sample, Timed};

/// A range writes no more log than this.
const RANGE_WAL: u64 = 64 << 20;

impl Steps<'_, '_, '_> {
    pub(super) async fn fill(&self, stored: &StoredStep) -> Result<Did> {
        let Does::Fill { column, .. } = &stored.step.does else { return Ok(Did::default()) };
        let context = self.context;
        // What fires was none when the steps were found out, or nobody would be here.
        if let Some(why) = trial::rows_cannot_be_filled(self.control, self.source).await? {
            return Err(Error::failed(format!("{why}; it came after the change was planned"))
                .next("Take that off the table, or have it disabled, until the column is filled"));
        }
        let flow = Arc::new(self.flow_of(stored).await?);
        // Whoever wants a row that is locked by us waits for no longer than for the cutover's lock, by and large.
        let aim =
            context.now(|settings| settings.copy.chunk_time.min(settings.cutover.lock_timeout / 2));
        let most =
            context.now(|settings| settings.cutover.max_lock_hold.max(Duration::from_millis(10)));
        let session = context.session("plan").await?;
        let first = context.settings.borrow().copy.first_chunk;
        let pace = Pace::new(first, aim(), RANGE_WAL);
        let writer = context.writer.clone();
        let mut planner =
            Planner::new(session, Arc::clone(&flow), writer.clone(), Kind::Fill, pace).await?;
        let (before, position) = planner.go_on().await?;
        planner.set_landmarks(position).await?;
        context.meter.tell(Sample::CopiedBefore(before.max(0) as u64));
        let filler = Filler {
            flow,
            column: column.clone(),
            writer,
            planner: Mutex::new(planner),
            valve: context.valve.clone(),
            covered: CancellationToken::new(),
            aim,
            most,
            worked: Arc::clone(&context.worked),
        };
        let filled = async {
            let rows = self.ranges(&filler).await?;
            let looker = context.session("look").await?;
            let watcher = context.session("look watch").await?;
            let session = context.session("fill").await?;
            let tell = |told| context.meter.note(told);
            filler.sweep((&looker, &watcher, &session), tell).await?;
            Ok::<_, Error>(rows)
        };
        let rows = match filled.await {
            Ok(rows) => rows,
            Err(e) if classify(&e) == Class::RowsDoNotFit => {
                return Err(violating::refused(self, e).await);
            }
            Err(e) => return Err(e),
        };
        self.settle(stored).await?;
        Ok(Did { lock: None, rows: Some(rows + before.max(0) as u64) })
    }

    async fn ranges(&self, filler: &Filler) -> Result<u64> {
        let context = self.context;
        let rows = AtomicU64::new(0);
        let rows = &rows;
        let worker = |number: usize| async move {
            let session = context.session(&format!("fill {}", number + 1)).await?;
            let tell = |copied: Copied| {
                rows.fetch_add(copied.rows, Ordering::Relaxed);
                context.meter.tell(Sample::Copied(copied.rows, copied.number));
                context.meter.took(Timed::Chunk, copied.took);
            };
            filler.work(&session, number, tell).await
        };
        let most = |settings: &Settings| settings.copy.workers;
        as_many(context.settings.clone(), most, worker).await?;
        let planner = filler.planner.lock().await;
        if !planner.is_complete() {
            return Err(Error::failed("filling ended before the last range"));
        }
        planner.check().await?;
        Ok(rows.load(Ordering::Relaxed))
    }

    /// The key as it was when the first range was handed out.
    async fn flow_of(&self, stored: &StoredStep) -> Result<Flow> {
        let flow = Flow { number: stored.number, ..(*self.context.flow).clone() };
        if let Some(key) = store::kept_key(self.control, flow.migration, flow.number).await? {
            return Ok(Flow { key, ..flow });
        }
        let now = catalog::read(self.control, self.source.oid).await?;
        let key: Vec<KeyColumn> = match now.as_ref().map(own_key) {
            Some(Ok(key)) => key,
            Some(Err(why)) => {
                let what = format!("rows cannot be filled in ranges of a key: {why}");
                return Err(Error::new(ErrorKind::Refused, what));
            }
            None => return Err(Error::failed("the table is gone")),
        };
        let flow = Flow { key, ..flow };
        store::record_flow(self.control, &flow, self.source, None).await?;
        Ok(flow)
    }
}
