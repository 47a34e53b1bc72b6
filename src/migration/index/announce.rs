//! What cannot be paused is told before it begins: what it is, about how long it takes and how much it writes.
//!
//! How long is worked out from how fast rows were copied; from the second build on it is mended by how long those before
//! it took, since what a row costs to copy and to sort need not be alike.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Planned;
use super::size::{Forecast, build_seconds};
use crate::error::Result;
use crate::migration::context::Context;
use crate::migration::store;
use crate::pg::{QualifiedName, Session};
use crate::telemetry::{Ahead, Sample};

/// A page of which only the visibility is logged, in bytes of WAL.
const PER_PAGE: u64 = 64;
/// Builds tell of the next ones when they took so long together, in seconds.
const LEAST_SEEN: f64 = 0.5;

/// Tells of builds before they begin.
pub(super) struct Announcer<'a> {
    context: &'a Context,
    /// Bytes of WAL that a worker of the copy wrote a second while at work.
    rate: Option<u64>,
    so_far: Mutex<SoFar>,
}

/// The builds so far, in seconds.
#[derive(Default, Clone, Copy)]
struct SoFar {
    worked_out: f64,
    took: f64,
}

impl SoFar {
    /// What one is likely to take that was worked out to take `seconds`.
    fn mend(self, seconds: Duration) -> Duration {
        // Too short to tell anything but what a statement takes.
        if self.took < LEAST_SEEN || self.worked_out <= 0.0 {
            return seconds;
        }
        seconds.mul_f64((self.took / self.worked_out).clamp(0.01, 100.0))
    }
}

/// A build that was announced.
pub(super) struct Announced {
    worked_out: Option<Duration>,
    began: Instant,
}

impl<'a> Announcer<'a> {
    /// Of what is known by now.
    pub(super) async fn new(context: &'a Context, session: &Session) -> Result<Self> {
        let rate = match context.worked.wal_per_second() {
            Some(rate) => Some(rate),
            // A run before this one copied.
            None => store::copy_rate(session, context.flow.migration).await?,
        };
        Ok(Announcer { context, rate, so_far: Mutex::default() })
    }

    /// An index is built next; [`Announcer::built`] is to be told when it is.
    pub(super) async fn index(
        &self,
        session: &Session,
        planned: &Planned,
        forecast: &Forecast,
    ) -> Result<Announced> {
        let (read, wal) = (forecast.read(planned), forecast.about(planned));
        let worked_out = self.rate.map(|rate| build_seconds(read, wal, rate));
        let so_far = *self.so_far();
        let took = worked_out.map(|seconds| so_far.mend(seconds));
        let what = format!("index {}", planned.plan.name);
        self.tell(session, Ahead { what, took, wal, more: None }).await?;
        Ok(Announced { worked_out, began: Instant::now() })
    }

    /// It is built, and waited for nobody.
    pub(super) fn built(&self, build: &Announced) {
        // What a statement takes says nothing of rows, and there may be hundreds of empty partitions.
        let told = build.worked_out.filter(|time| time.as_secs_f64() >= LEAST_SEEN / 10.0);
        let Some(worked_out) = told else { return };
        let mut so_far = self.so_far();
        so_far.worked_out += worked_out.as_secs_f64();
        so_far.took += build.began.elapsed().as_secs_f64();
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// VACUUM is next. Pages are logged whole where the server logs hint bits: then as much as the table.
    pub(super) async fn vacuum(
        &self,
        session: &Session,
        statement: &str,
        relation: &QualifiedName,
    ) -> Result<()> {
        let sql = "SELECT pg_catalog.current_setting('data_checksums') = 'on' \
                   OR pg_catalog.current_setting('wal_log_hints') = 'on', \
                   pg_catalog.current_setting('block_size')::pg_catalog.int8, \
                   pg_catalog.pg_table_size($1::pg_catalog.text::pg_catalog.regclass)";
        let row = session.one(sql, &[&relation.to_string()]).await?;
        let table = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
        let pages = table / row.get::<_, i64>(1).max(1) as u64;
        let most = row.get::<_, bool>(0).then_some(table);
        let seconds = self.rate.map(|rate| build_seconds(table, 0, rate));
        let what = format!("{statement} of {relation}");
        let wal = pages * PER_PAGE;
        self.tell(session, Ahead { what, took: seconds, wal, more: most }).await
    }

    async fn tell(&self, session: &Session, ahead: Ahead) -> Result<()> {
        let told = ahead.to_string();
        self.context.meter.tell(Sample::Ahead(ahead));
        store::event(session, self.context.flow.migration, "announced", &told).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_tell_of_the_next_ones() {
        let ten = Duration::from_secs(10);
        let mend = |worked_out, took| SoFar { worked_out, took }.mend(ten).as_secs_f64();
        assert_eq!(mend(0.0, 0.0), 10.0, "nothing is known");
        assert_eq!(mend(8.0, 4.0), 5.0);
        assert_eq!(mend(0.01, 0.02), 10.0, "too short");
        assert_eq!(mend(f64::MAX, 5.0), 0.1);
    }
}
