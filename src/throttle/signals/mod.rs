//! What presses: each signal is read, and told as a share of its limit.

mod average_active;
mod backlog;
mod lately;
mod load;
mod positions;
mod probe;
mod query;
mod replicas;
mod standbys;
mod subscribers;
mod told;

use std::time::{Duration, Instant};

use tokio_postgres::{Row, Statement};

pub use average_active::Counter;
use load::{Archiver, Sessions};
use positions::Positions;
pub use probe::{CALM, Felt, Prober};
pub use query::Asked;
pub use replicas::Replicas;
pub use standbys::Behind;
use standbys::{Standby, Standbys};
use subscribers::{Slot, Subscribers};
pub use told::Told;

use super::controller::Reading;
use super::limits::Limits;
use crate::error::{Error, Result};
use crate::pg::{Lsn, Session};

/// Over how long the rate of writing is averaged.
const RATE_SPAN: Duration = Duration::from_secs(2);
/// A standby that is behind is made to report again, at most so often.
const REMIND: Duration = Duration::from_millis(500);
/// Who vanishes may be back, and further behind: for so long he counts.
const VANISHED: Duration = Duration::from_secs(30);
/// From this share of its limit on.
const LATE: f64 = 0.1;
/// Less than so many bytes are not told in whole megabytes.
const FEW: u64 = 10 << 20;

/// What was seen of the server at one moment.
pub struct Seen {
    /// Before and after the server was asked.
    asked: Instant,
    now: Instant,
    written: Lsn,
    standbys: Vec<Standby>,
    subscribers: Vec<Slot>,
    sessions: Sessions,
    archiver: Option<Row>,
}

impl Seen {
    /// Whether anybody but us is at work, and would notice if the server were slow.
    pub fn anybody(&self) -> bool {
        self.sessions.anybody
    }
}

/// Reads the signals of one server.
pub struct Signals {
    /// Used for this alone.
    session: Session,
    statements: [Statement; 5],
    positions: Positions,
    standbys: Standbys,
    replicas: Replicas,
    subscribers: Subscribers,
    archiver: Archiver,
    reminded: Option<Instant>,
}

impl Signals {
    /// Prepares the reading.
    pub async fn prepare(session: Session, replicas: Replicas) -> Result<Self> {
        // What reminds a standby need not be on disk when the answer comes: the server writes it soon.
        session.set("synchronous_commit", "off").await?;
        let statements = [
            session.prepare("SELECT pg_catalog.pg_current_wal_lsn()").await?,
            session.prepare(standbys::SQL).await?,
            session.prepare(subscribers::SQL).await?,
            session.prepare(&load::sessions_sql()).await?,
            session.prepare(load::ARCHIVER).await?,
        ];
        Ok(Signals {
            session,
            statements,
            positions: Positions::default(),
            standbys: Standbys::default(),
            replicas,
            subscribers: Subscribers::default(),
            archiver: Archiver::default(),
            reminded: None,
        })
    }

    /// Looks at the server.
    pub async fn look(&mut self) -> Result<Seen> {
        let [written, standbys, subscribers, sessions, archiver] = &self.statements;
        let asked = Instant::now();
        let session = &self.session;
        let (written, standbys, subscribers, sessions, archiver) = tokio::try_join!(
            session.run(written, &[]),
            session.run(standbys, &[]),
            session.run(subscribers, &[]),
            session.run(sessions, &[]),
            session.run(archiver, &[])
        )?;
        let nothing = || Error::failed("the server tells no position");
        let (written, now): (Lsn, _) =
            (written.first().ok_or_else(nothing)?.get(0), Instant::now());
        self.positions.note(now, written);
        Ok(Seen {
            asked,
            now,
            written,
            standbys: Standby::all(&standbys),
            subscribers: Slot::all(&subscribers),
            sessions: sessions.first().map(Sessions::of).unwrap_or_default(),
            archiver: archiver.into_iter().next(),
        })
    }

    /// What was seen, against limits: every signal that has one.
    pub fn readings(&mut self, seen: &Seen, limits: &Limits) -> Vec<Reading> {
        let behind = (seen.written, &self.positions);
        let asked = self.replicas.standbys(&limits.replicas, seen.written, seen.asked);
        let standbys = seen.standbys.iter().chain(&asked);
        // Of several that cannot be measured the last is told: standbys rather than sessions.
        let mut readings: Vec<Reading> = seen.sessions.read(limits).collect();
        readings.extend(self.standbys.read(standbys, behind, limits, seen.now));
        let slots = &seen.subscribers;
        readings.extend(self.subscribers.read(slots, seen.written, limits, seen.now));
        readings.extend(limits.wal_rate.and_then(|limit| self.rate(limit)));
        let archiver = seen.archiver.as_ref();
        readings.extend(archiver.and_then(|row| self.archiver.read(row, limits)));
        readings
    }

    /// How far each standby was behind when the signals were read last, those without a limit too.
    pub fn behind(&self) -> &[Behind] {
        &self.standbys.behind
    }

    /// A standby reports how far it has replayed when it gets more log, and else only each ten seconds: while
    /// the copy rests nobody would hear that it has caught up, and it would seem to stand still.
    pub async fn remind(&mut self, readings: &[Reading]) -> Result<()> {
        let now = Instant::now();
        let late = |r: &Reading| r.is_of_standby() && r.pressure >= Some(LATE);
        let late = readings.iter().any(late);
        if late && self.reminded.is_none_or(|at| now.duration_since(at) >= REMIND) {
            self.reminded = Some(now);
            // Committed, since nothing else makes the server send it.
            let sql = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgwraith/remind', '')";
            self.session.query(sql, &[]).await?;
        }
        Ok(())
    }

    fn rate(&self, limit: u64) -> Option<Reading> {
        let rate = self.positions.rate(RATE_SPAN)?;
        let text = format!("{} a second", sizes(rate as u64, limit));
        Some(Reading::of_others("wal-rate", Some(rate / limit.max(1) as f64), text))
    }
}

/// Why what others do is not known.
fn hidden(role: &str) -> String {
    format!("{role} may not see it: GRANT pg_read_all_stats TO {role}")
}

/// `1.9 of 2 s`
fn times(value: Duration, limit: Duration) -> String {
    format!("{:.1} of {} s", value.as_secs_f64(), limit.as_secs_f64())
}

/// `12 of 256 MB`, and `300 kB of 2 MB` where whole megabytes would hide what is meant.
pub fn sizes(value: u64, limit: u64) -> String {
    let ((value, unit), (limit, of)) = (in_unit(value), in_unit(limit));
    match unit == of {
        true => format!("{value} of {limit} {of}"),
        false => format!("{value} {unit} of {limit} {of}"),
    }
}

fn in_unit(bytes: u64) -> (u64, &'static str) {
    match bytes < FEW && !bytes.is_multiple_of(1 << 20) {
        true => (bytes.div_ceil(1 << 10), "kB"),
        false => (bytes.div_ceil(1 << 20), "MB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_told_in_kilobytes() {
        assert_eq!(sizes(300 << 10, 2 << 20), "300 kB of 2 MB");
        assert_eq!(sizes(1, 300 << 10), "1 of 300 kB");
        assert_eq!(sizes((12 << 20) + 1, 256 << 20), "13 of 256 MB");
        assert_eq!(sizes(0, 1 << 20), "0 of 1 MB");
    }
}
