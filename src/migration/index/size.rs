//! How much WAL is written while an index is built: a generous estimate from above, since what is
//! predicted too high costs some time (the index is built CONCURRENTLY), and too low the slot.
//!
//! An index build logs whole pages, so its own WAL is about as large as the index. What the
//! application writes in that time is held back too: its rate is measured where the build takes long
//! enough for it to matter.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Planned;
use crate::catalog::Table;
use crate::error::Result;
use crate::migration::context::Context;
use crate::pg::{Lsn, QualifiedName, Session};
use crate::shadow::IndexPlan;

/// An index grows at least so fast, in bytes a second (measured on two busy cores: 9 MB/s).
const BUILT_PER_SECOND: u64 = 8 << 20;
/// The table is read at least so fast.
const READ_PER_SECOND: u64 = 64 << 20;
/// A build reads the table so many times as fast as rows are copied (measured: four indexes of five million rows
/// took 13 s, where copying took a worker 8).
const READS_FASTER: u64 = 4;
/// In a shorter time the application writes nothing that matters.
const LONG_BUILD: u64 = 5;
/// So long its rate is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// About what a build takes that reads so much and writes so much, where a worker of the copy wrote so many bytes a
/// second. No bound, unlike what is predicted for the slot below.
pub(in crate::migration) fn build_seconds(read: u64, written: u64, rate: u64) -> Duration {
    let bytes = (read / READS_FASTER).saturating_add(written);
    Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64).unwrap_or(Duration::MAX)
}

/// What is known of an index's size before it is built.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Extent {
    /// The source has it, of so many bytes.
    Known(u64),
    /// An entry for each of about so many rows, with these columns of the new table.
    Entries { rows: u64, columns: Vec<String> },
    /// No more than so many times the whole table.
    Table(u64),
}

/// What the tables' definitions say of an index's size.
pub(super) fn extent(plan: &IndexPlan, source: &Table, target: &Table) -> Extent {
    let wanted = &plan.index;
    let same =
        |i: &&crate::catalog::Index| i.name == wanted.name && i.definition == wanted.definition;
    if let Some(same) = source.indexes.iter().find(same) {
        return Extent::Known(u64::try_from(same.bytes).unwrap_or(0));
    }
    if !wanted.definition.starts_with("USING btree ") {
        // One row may have many entries (GIN), and a hash index logs each of its own.
        return Extent::Table(2);
    }
    let columns = wanted.attnums.iter().map(|&n| target.column(n).map(|c| c.name.clone()));
    match columns.collect::<Option<Vec<_>>>() {
        Some(columns)
            if source.estimated_rows > 0.0 && !wanted.definition.contains(" INCLUDE (") =>
        {
            Extent::Entries { rows: source.estimated_rows as u64, columns }
        }
        // An entry is no wider than its row, as long as it holds no column twice.
        _ => Extent::Table(1),
    }
}

/// What the predictions for some builds have in common.
pub(super) struct Forecast {
    /// Bytes of the shadow's rows, values out of line included.
    table: u64,
    /// The share of them that each of its partitions has, where it has some.
    shares: HashMap<QualifiedName, f64>,
    /// The shadow's columns with their widths; -1 is any.
    widths: Vec<(String, i16)>,
    /// Bytes of WAL that the server writes in a second, without ours.
    rate: u64,
    /// Builds that go on at the same time: what the others write is held back too.
    jobs: u64,
}

impl Forecast {
    /// Measures what it takes to predict `builds`, of which so many go on at the same time.
    pub(super) async fn make(
        context: &Context,
        session: &Session,
        builds: &[&Planned],
        jobs: usize,
    ) -> Result<Self> {
        let target = &context.flow.target;
        let sizes = sizes(session, &target.relations()).await?;
        let table: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let share =
            |(name, bytes): (QualifiedName, u64)| (name, bytes as f64 / table.max(1) as f64);
        let sql = "SELECT a.attname::pg_catalog.text, a.attlen \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
                   WHERE c.oid = $1::pg_catalog.text::pg_catalog.regclass AND a.attnum > 0 \
                   AND NOT a.attisdropped";
        let rows = session.query(sql, &[&target.root.to_string()]).await?;
        let mut forecast = Forecast {
            table,
            shares: sizes.into_iter().map(share).collect(),
            widths: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            rate: 0,
            jobs: jobs.max(1) as u64,
        };
        let long = |planned: &&Planned| {
            forecast.part(&planned.on, forecast.seconds(&planned.extent)) >= LONG_BUILD
        };
        if builds.iter().any(long) {
            forecast.rate = wal_rate(session).await?;
        }
        Ok(forecast)
    }

    /// Bytes of WAL that the server writes from the beginning of a build to its end.
    pub(super) fn of(&self, planned: &Planned) -> u64 {
        self.part(&planned.on, self.wal(&planned.extent))
    }

    fn wal(&self, extent: &Extent) -> u64 {
        let builds = self.bytes(extent).saturating_mul(self.jobs);
        builds.saturating_add(self.rate.saturating_mul(self.seconds(extent)))
    }

    /// About what one build writes itself, without any precaution.
    pub(super) fn about(&self, planned: &Planned) -> u64 {
        self.part(&planned.on, self.writes(&planned.extent))
    }

    fn writes(&self, extent: &Extent) -> u64 {
        match extent {
            Extent::Known(bytes) => *bytes,
            _ => self.bytes(extent),
        }
    }

    /// What one build reads.
    pub(super) fn read(&self, planned: &Planned) -> u64 {
        self.part(&planned.on, self.table)
    }

    /// What of the whole falls to a relation.
    fn part(&self, on: &QualifiedName, whole: u64) -> u64 {
        (whole as f64 * self.shares.get(on).copied().unwrap_or(1.0)) as u64
    }

    /// What one build takes; several at a time take longer.
    fn seconds(&self, extent: &Extent) -> u64 {
        let one = self.table / READ_PER_SECOND + self.bytes(extent) / BUILT_PER_SECOND;
        one.saturating_mul(self.jobs)
    }

    /// The index's size.
    fn bytes(&self, extent: &Extent) -> u64 {
        match extent {
            // The change may have widened its columns.
            Extent::Known(bytes) => bytes.saturating_add(bytes / 2),
            Extent::Table(times) => self.whole_table().saturating_mul(*times),
            Extent::Entries { rows, columns } => match self.entry(columns) {
                // The number is an estimate too, and pages are filled to nine tenths.
                Some(entry) => (rows + rows / 2).saturating_mul(entry),
                None => self.whole_table(),
            },
        }
    }

    fn whole_table(&self) -> u64 {
        self.table.saturating_add(self.table / 4)
    }

    /// The width of an entry of these columns, where each has one: its header with the NULLs, its place
    /// in the page, the values aligned.
    fn entry(&self, columns: &[String]) -> Option<u64> {
        let width = |name: &String| {
            let (_, width) = self.widths.iter().find(|(column, _)| column == name)?;
            u64::try_from(*width).ok()
        };
        columns.iter().try_fold(20, |sum, name| Some(sum + width(name)?.next_multiple_of(8)))
    }
}

async fn sizes(
    session: &Session,
    relations: &[QualifiedName],
) -> Result<Vec<(QualifiedName, u64)>> {
    let names: Vec<String> = relations.iter().map(QualifiedName::to_string).collect();
    let sql = "SELECT pg_catalog.pg_table_size(pg_catalog.to_regclass(n.name)) \
               FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS n (name, i) ORDER BY n.i";
    let rows = session.query(sql, &[&names]).await?;
    let bytes = |row: &tokio_postgres::Row| row.get::<_, Option<i64>>(0).unwrap_or(0).max(0) as u64;
    Ok(relations.iter().cloned().zip(rows.iter().map(bytes)).collect())
}

/// Bytes of WAL that the server writes in a second. Of ours almost nothing is among them: nobody copies
/// or syncs while this is asked.
async fn wal_rate(session: &Session) -> Result<u64> {
    let began = Instant::now();
    let before = wal_end(session).await?;
    sleep(MEASURED).await;
    let written = wal_end(session).await?.bytes_since(before);
    Ok((written as f64 / began.elapsed().as_secs_f64()) as u64)
}

/// The end of the log.
pub(in crate::migration) async fn wal_end(session: &Session) -> Result<Lsn> {
    Ok(session.one("SELECT pg_catalog.pg_current_wal_lsn()", &[]).await?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn forecast(rate: u64, jobs: u64) -> Forecast {
        let widths = vec![("id".into(), 8), ("n".into(), 4), ("name".into(), -1)];
        Forecast { table: 640 * MB, shares: HashMap::new(), widths, rate, jobs }
    }

    fn entries(columns: &[&str]) -> Extent {
        let columns = columns.iter().map(|&c| c.to_owned()).collect();
        Extent::Entries { rows: 1_000_000, columns }
    }

    #[test]
    fn an_index_is_predicted_from_what_is_known_of_it() {
        let forecast = forecast(0, 1);
        assert_eq!(forecast.wal(&Extent::Known(100 * MB)), 150 * MB);
        assert_eq!(forecast.wal(&entries(&["id", "n"])), 1_500_000 * 36);
        // Of a column of any width nothing is known but that the rows hold it.
        assert_eq!(forecast.wal(&entries(&["id", "name"])), 800 * MB);
        assert_eq!(forecast.wal(&Extent::Table(2)), 1600 * MB);
    }

    #[test]
    fn a_build_is_as_fast_as_the_copy_was() {
        assert_eq!(build_seconds(640 * MB, 40 * MB, 10 * MB).as_secs(), 20);
        assert_eq!(forecast(0, 1).writes(&Extent::Known(100 * MB)), 100 * MB);
        assert_eq!(forecast(0, 1).writes(&Extent::Table(1)), 800 * MB);
        assert!(build_seconds(u64::MAX, u64::MAX, 0).as_secs() > 0);
    }

    #[test]
    fn what_others_write_in_that_time_is_added() {
        // 10 s to read the table, 10 s to build 80 MB of index that may become 120.
        let extent = Extent::Known(80 * MB);
        assert_eq!(forecast(0, 1).seconds(&extent), 25);
        assert_eq!(forecast(MB, 1).wal(&extent), (120 + 25) * MB);
        assert_eq!(forecast(MB, 3).wal(&extent), 3 * (120 + 25) * MB);
        assert_eq!(forecast(u64::MAX, 9).wal(&Extent::Known(u64::MAX)), u64::MAX);
    }
}
