//! The dry run: the real phases over a part of the rows, and what they would come to for all of them.
//!
//! It is a migration of its own kind in the state, so that `abort` and `cleanup` find whatever a dry run
//! that dies leaves; nobody goes on with it, and it never comes near the swap: it ends where the cutover
//! would ask for its first lock that the application notices.

mod clock;
mod forecast;
mod late;
mod measure;
pub(super) mod table;

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::abort;
use super::prepare;
use super::run::{FIRST_EPOCH, Run};
use super::store::{self, DRY_RUN, Stored};
use super::stretch::Stretch;
use crate::catalog::Table;
use crate::change::trial::Way;
use crate::change::{Plan, Request};
use crate::error::{Error, Kind, Result};
use crate::flow::write::superseded;
use crate::pg::shell_word;
pub use forecast::{Forecast, Span};
pub use measure::{Changes, Seen};

/// What takes things away afterwards may take so long.
const LIMIT: Duration = Duration::from_secs(120);

/// The slot of a dry run may hold back so much where nothing else is said.
pub const MAX_SLOT_WAL: u64 = 1 << 30;

/// How much is copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// For so long.
    pub time: Duration,
    /// And no more than this share of the rows.
    pub share: Option<f64>,
}

/// What a dry run found out.
#[derive(Debug, serde::Serialize)]
pub struct Rehearsed {
    pub table: String,
    pub seen: Seen,
    pub forecast: Forecast,
}

/// A dry run that is there is of no use to whoever wants to go on.
pub(super) fn nobody_goes_on(stored: &Stored) -> Error {
    let (name, word) = (&stored.names.source, shell_word(&stored.names.source.to_string()));
    Error::usage(format!("what there is of {name} is a dry run, which nobody goes on with"))
        .next(format!("`pgwraith abort {word}` ends it and removes what it made"))
}

impl Run<'_> {
    /// Rehearses the migration, and takes away everything that it made for that.
    pub async fn rehearse(
        &self,
        request: &Request,
        extent: Extent,
        captures: bool,
    ) -> Result<Rehearsed> {
        self.meter.note(self.announced(extent, captures));
        let instant = self.supervisor.guard(self.looked_at(request)).await?;
        let instant = instant.filter(|(_, trial)| trial.verdict.way == Way::Instant);
        let (migration, (source, plan)) = self.begin(request, DRY_RUN).await?;
        let stretch = Stretch {
            run: self,
            supervisor: self.supervisor.next_stretch(),
            migration,
            epoch: FIRST_EPOCH,
            recover: false,
        };
        let done = stretch.rehearse(source, plan, extent, captures).await;
        let undone = timeout(LIMIT, self.undo_rehearsal(migration)).await;
        let undone = undone.unwrap_or_else(|_| Err(Error::lost("the server does not answer")));
        let done = done.map(|mut rehearsed| {
            rehearsed.seen.warnings.extend(instant.map(|(_, trial)| {
                let why = trial.verdict.why;
                format!("a run makes this change in place, without a copy: {why}; this was a rehearsal of the copy (--force-copy)")
            }));
            rehearsed
        });
        match (done, undone) {
            (done, Ok(())) => done.map_err(|e| match e.kind() {
                // Somebody ended it, and took everything away.
                Kind::NotResumable => e,
                _ => e.and_then_state(
                    format!("{} is untouched; everything of the dry run is removed", self.table),
                    "The same would have happened to a run".to_owned(),
                ),
            }),
            (done, Err(left)) => {
                let what = done
                    .err()
                    .map_or_else(|| "the dry run is done".to_owned(), |e| e.what().to_owned());
                Err(Error::failed(format!("{what}; removing what it made failed: {}", left.what()))
                    .state(format!("{} is untouched; the slot may hold WAL back", self.table))
                    .next(format!("`pgwraith abort {}` removes it", shell_word(self.table))))
            }
        }
    }

    /// What will be there for a while.
    fn announced(&self, extent: Extent, captures: bool) -> String {
        let slot = self.settings.index.max_slot_wal.unwrap_or(MAX_SLOT_WAL) >> 20;
        let time = extent.time.as_secs_f64();
        let extent = match extent.share {
            None => format!("for {time} s"),
            Some(share) => format!("{} % of its rows, for {time} s at most,", share * 100.0),
        };
        let followed = match captures {
            true => format!(
                "a publication and a replication slot (given up at {slot} MB of WAL held back), both called pgwraith_…, "
            ),
            false => String::new(),
        };
        format!(
            "dry run of {}: it will make {followed}a new table beside it (its name with _v2 at the end) and the \
             schema pgwraith, copy {extent} at the limits of a run, and remove all of that; the table itself is \
             only read",
            self.table
        )
    }

    async fn undo_rehearsal(&self, migration: i64) -> Result<()> {
        let session = self.connector.session("end").await?;
        // An abort was faster.
        let Some(stored) = store::load(&session, migration).await? else { return Ok(()) };
        abort::undo(self.connector, &session, stored, &self.meter).await.map(drop)
    }
}

impl Stretch<'_, '_> {
    async fn rehearse(
        &self,
        source: Table,
        plan: Plan,
        extent: Extent,
        captures: bool,
    ) -> Result<Rehearsed> {
        let control = self.session("control").await?;
        let stored = store::load(&control, self.migration).await?.ok_or_else(superseded)?;
        prepare::make_alike(self.run.connector, &control, &stored).await?;
        let making = self.making(&control, &stored);
        let name = source.qualified().to_string();
        let watchdog = self.watchdog().await?;
        let prepares = Instant::now();
        let prepared = self.supervisor.guard(making.rehearsal((source, plan), captures));
        let seen = match prepared.await {
            Ok(made) => self.measure(&control, (made, prepares), extent).await,
            Err(e) => Err(e),
        };
        watchdog.finish().await;
        let seen = seen?;
        Ok(Rehearsed { table: name, forecast: Forecast::of(&seen), seen })
    }
}
