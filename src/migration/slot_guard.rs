//! Watches how much of the log our slot holds back: slows the copy down first, and gives the slot up rather
//! than let it take the server down. The state stays, for `resume --recover`.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::slot_limits::{LEAST, SlotLimits};
use super::supervisor::Supervisor;
use super::teardown;
use crate::error::{Error, Result};
use crate::flow::Now;
use crate::pg::{Lsn, Session, Who};
use crate::telemetry::{Meter, Sample, Slot};
use crate::throttle::controller::Reading;
use crate::throttle::signals::{Told, sizes};

const EVERY: Duration = Duration::from_millis(500);
/// Who holds the slot back is told again only after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// From this share of the limit on it is told who holds the slot back.
const TELL_FROM: f64 = 0.5;
/// The copy is to be slowed down early, and to have stopped long before the slot is given up.
const AT_THE_LIMIT: f64 = 1.7;

/// Over its limit the slot is given up after so long, in which it may yet move on; or at once where it is over
/// by far.
const GRACE: Duration = Duration::from_secs(10);
const BY_FAR: f64 = 1.25;
/// From this share of the limit on the server is made to move the slot on.
const NUDGE_FROM: f64 = 0.15;
/// What is asked of the server for that may take no longer.
const NUDGE_LIMIT: &str = "500ms";

/// Guards one slot.
pub(super) struct SlotGuard {
    /// Used by the guard alone.
    pub(super) session: Session,
    pub(super) slot: String,
    /// `--max-slot-wal`.
    pub(super) asked: Now<Option<u64>>,
    pub(super) told: Told,
    pub(super) meter: Meter,
}

/// What the server says of the slot.
struct Seen {
    held: u64,
    /// Of that, what is not confirmed yet.
    unconfirmed: u64,
    /// Bytes until the server gives it up.
    safe: Option<i64>,
    lost: bool,
}

impl Seen {
    fn is_over_by_far(&self, limit: u64) -> bool {
        let most = (limit as f64 * BY_FAR) as u64 + 2 * LEAST;
        self.lost || self.held >= most || near(self.held, self.safe) >= 1.0
    }
}

impl SlotGuard {
    /// Works until `end`. Where the slot holds back too much the run is stopped and the slot dropped.
    pub(super) async fn guard(self, supervisor: Supervisor, end: CancellationToken) -> Result<()> {
        let limits = SlotLimits::read(&self.session, None).await?;
        let mut told: Option<Instant> = None;
        let mut over: Option<Instant> = None;
        loop {
            if timeout(EVERY, end.cancelled()).await.is_ok() {
                return Ok(());
            }
            let Some(seen) = self.look().await? else { continue };
            let limit = SlotLimits { asked: (self.asked)(), ..limits }.of_guard();
            self.meter.tell(Sample::Slot(Slot {
                name: self.slot.clone(),
                retained: seen.held,
                safe: seen.safe,
                lost: seen.lost,
            }));
            let pressure = pressure(seen.held, seen.safe, limit);
            if pressure >= NUDGE_FROM {
                self.nudge().await?;
            }
            let text = sizes(seen.held, limit);
            self.told.tell(Reading::of_others("slot", Some(pressure * AT_THE_LIMIT), text));
            over = (pressure >= 1.0).then(|| over.unwrap_or_else(Instant::now));
            let waited = over.is_some_and(|since| since.elapsed() >= GRACE);
            if waited || seen.is_over_by_far(limit) {
                let why = self.why(&seen).await?;
                // Told first: without its slot the stream breaks, and that is not the reason.
                supervisor.fail(self.over(&seen, limit, &why));
                return teardown::drop_slot(&self.session, &self.slot).await;
            }
            if pressure >= TELL_FROM && told.is_none_or(|at| at.elapsed() > TELL_AGAIN) {
                told = Some(Instant::now());
                let why = self.why(&seen).await?;
                self.meter.note(format!(
                    "the slot holds back {} MB of WAL of {} MB allowed, and the copy slows down: {why}",
                    seen.held >> 20,
                    limit >> 20
                ));
            }
        }
    }

    /// A slot's position moves on to where running transactions were last noted in the log, which the server
    /// does by itself only each 15 s (`LogStandbySnapshot`): the copy of a large table writes gigabytes in
    /// that time, all of them confirmed and still kept. Making a logical slot notes them too, and needs no
    /// more than we may do already.
    async fn nudge(&self) -> Result<()> {
        let name = format!("{}_nudge", self.slot);
        let sql = "SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', true)";
        self.session.set("statement_timeout", NUDGE_LIMIT).await?;
        // Noted first; then it waits for those transactions, which is of no use to us.
        let made = self.session.query(sql, &[&name]).await;
        self.session.set("statement_timeout", "0").await?;
        match made {
            Ok(_) => {
                let sql = "SELECT pg_catalog.pg_drop_replication_slot($1)";
                self.session.query(sql, &[&name]).await.map(drop)
            }
            Err(e) if self.session.is_closed() => Err(e),
            // Out of time, or no slot is free.
            Err(e) => {
                tracing::debug!("the slot could not be moved on: {e}");
                Ok(())
            }
        }
    }

    async fn look(&self) -> Result<Option<Seen>> {
        let sql = "SELECT pg_catalog.pg_current_wal_lsn(), s.restart_lsn, s.safe_wal_size, \
                   COALESCE(s.wal_status = 'lost', false), s.confirmed_flush_lsn \
                   FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
        let row = self.session.maybe(sql, &[&self.slot]).await?;
        Ok(row.map(|row| {
            let (now, restart): (Lsn, Option<Lsn>) = (row.get(0), row.get(1));
            let held = now.bytes_since(restart.unwrap_or(now));
            let unconfirmed = now.bytes_since(row.get::<_, Option<Lsn>>(4).unwrap_or(now));
            Seen { held, unconfirmed, safe: row.get(2), lost: row.get(3) }
        }))
    }

    /// Log is kept from where the oldest transaction began that was open at the last confirmed change: one
    /// that is still open, and has written, is to blame.
    async fn why(&self, seen: &Seen) -> Result<String> {
        let sql = format!(
            "SELECT {} FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL \
             AND a.xact_start < pg_catalog.clock_timestamp() - interval '1 second' \
             ORDER BY pg_catalog.age(a.backend_xid) DESC LIMIT 1",
            Who::COLUMNS
        );
        let writer = self.session.maybe(&sql, &[]).await?;
        Ok(why(seen, writer.map(|row| Who::of(&row).to_string())))
    }

    fn over(&self, seen: &Seen, limit: u64, why: &str) -> Error {
        let what = match seen.lost {
            true => format!(
                "the server gave the replication slot {} up (max_slot_wal_keep_size)",
                self.slot
            ),
            false => format!(
                "the replication slot {} holds back {} MB of WAL, {} MB are allowed (--max-slot-wal, max_slot_wal_keep_size)",
                self.slot,
                seen.held >> 20,
                limit >> 20
            ),
        };
        Error::failed(format!(
            "{what}: {why}. The slot is dropped so that the disk does not fill up"
        ))
    }
}

/// How near the nearer of both limits is: at 1 it is reached.
fn pressure(held: u64, safe: Option<i64>, limit: u64) -> f64 {
    near(held, safe).max(held as f64 / limit.max(1) as f64)
}

/// How near the server's own limit is, by what is left until it gives the slot up: half of the limit's last
/// eighth is left to it.
fn near(held: u64, safe: Option<i64>) -> f64 {
    safe.map_or(0.0, |safe| {
        let all = held as f64 + safe.max(0) as f64;
        held as f64 / (all * 15.0 / 16.0).max(1.0)
    })
}

/// What keeps the slot where it is, with `writer`, who has been writing for longest. Several things may, and
/// none of them is guessed: where all is confirmed and nobody writes, the server alone has not moved it on.
fn why(seen: &Seen, writer: Option<String>) -> String {
    let writer = writer.map(|who| format!("it is held by the transaction of {who}"));
    let behind = (seen.unconfirmed >= (seen.held / 2).max(1)).then(|| {
        let megabytes = seen.unconfirmed >> 20;
        format!("logical decoding is behind what is written, by {megabytes} MB")
    });
    let all: Vec<String> = writer.into_iter().chain(behind).collect();
    match all.is_empty() {
        true => {
            "nearly all that was written is confirmed, but the server has not moved the slot's \
                 restart_lsn on yet; it is made to try twice a second"
                .to_owned()
        }
        false => all.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_blamed_for_what_he_does_not_hold() {
        let seen = |unconfirmed| Seen { held: 100 << 20, unconfirmed, safe: None, lost: false };
        let writer = || Some("pid 7 app".to_owned());
        assert_eq!(why(&seen(0), writer()), "it is held by the transaction of pid 7 app");
        let decoding = "logical decoding is behind what is written, by 90 MB";
        assert_eq!(why(&seen(90 << 20), None), decoding);
        let both = why(&seen(90 << 20), writer());
        assert!(both.contains("pid 7 app") && both.contains(decoding), "{both}");
        let neither = why(&seen(1 << 20), None);
        assert!(neither.contains("restart_lsn") && !neither.contains("behind"), "{neither}");
    }

    #[test]
    fn what_is_held_back_is_a_share_of_the_limit() {
        let gb = 1u64 << 30;
        assert_eq!(pressure(0, None, gb), 0.0);
        assert_eq!(pressure(gb / 2, None, gb), 0.5);
        assert_eq!(pressure(gb, None, gb), 1.0);
        assert_eq!(pressure(2 * gb, None, gb), 2.0);
    }

    #[test]
    fn the_slot_is_given_up_before_the_server_does() {
        let gb = 1i64 << 30;
        assert!(pressure(gb as u64, Some(gb / 100), u64::MAX) >= 1.0);
        assert!(pressure(gb as u64, Some(gb), u64::MAX) < 0.6);
        assert!(pressure(1, Some(-5), u64::MAX) >= 1.0, "already beyond");
    }
}
