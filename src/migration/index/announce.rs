//! What cannot be paused is told before it begins: what it is, about how long it takes and how much it writes.

use super::Planned;
use super::size::{Forecast, build_seconds};
use crate::error::Result;
use crate::migration::context::Context;
use crate::migration::store;
use crate::pg::{QualifiedName, Session};
use crate::telemetry::{Ahead, Sample};

/// A page of which only the visibility is logged, in bytes of WAL.
const PER_PAGE: u64 = 64;

/// Tells of builds before they begin.
pub(super) struct Announcer<'a> {
    context: &'a Context,
    /// Bytes of WAL that a worker of the copy wrote a second while at work.
    rate: Option<u64>,
}

impl<'a> Announcer<'a> {
    /// Of what is known by now.
    pub(super) async fn new(context: &'a Context, session: &Session) -> Result<Self> {
        let rate = match context.worked.wal_per_second() {
            Some(rate) => Some(rate),
            // A run before this one copied.
            None => store::copy_rate(session, context.flow.migration).await?,
        };
        Ok(Announcer { context, rate })
    }

    /// An index is built next.
    pub(super) async fn index(
        &self,
        session: &Session,
        planned: &Planned,
        forecast: &Forecast,
    ) -> Result<()> {
        let (read, wal) = (forecast.read(planned), forecast.about(planned));
        let seconds = self.rate.map(|rate| build_seconds(read, wal, rate));
        let what = format!("index {}", planned.plan.name);
        self.tell(session, Ahead { what, took: seconds, wal, more: None }).await
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
