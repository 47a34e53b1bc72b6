//! How far the physical standbys are behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::positions::Positions;
use super::{VANISHED, hidden, sizes, times};
use crate::pg::{Lossy, Lsn};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// What a standby last reported: one that has replayed all but the last moment's log may say so only in
/// ten seconds (`wal_receiver_status_interval`), on a server that writes nothing meanwhile.
const NOTHING: u64 = 64 << 10;
/// One that is so far behind replays as fast as it can; and how fast that is, is seen over so long.
const BUSY: Duration = Duration::from_millis(300);
const SPAN: Duration = Duration::from_secs(1);
/// What it has to replay is not believed to take longer than so many times its lag.
const BELIEVED: u32 = 3;
/// What one that stands still presses: the copy stops, until it moves.
const STANDS: f64 = 2.0;

/// Of every standby: who, up to where it has replayed (null: it has not told), and the role that may not see
/// that. A role without pg_read_all_stats sees that a walsender is there and no more, not even its state: it
/// may be a standby's, and a standby that cannot be measured must not look like none.
pub(super) const SQL: &str = "
  SELECT r.application_name, r.pid, r.replay_lsn,
    CASE WHEN r.state IS NULL THEN pg_catalog.quote_ident(CURRENT_USER::pg_catalog.text) END
  FROM pg_catalog.pg_stat_replication r
  WHERE r.state IS DISTINCT FROM 'backup' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots s
    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')";

/// The standbys that were seen.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    /// By signal, the last of those with one name, of those that the server knows of.
    seen: BTreeMap<String, Instant>,
    /// When each had replayed up to where.
    replayed: BTreeMap<String, Positions>,
    /// How far each was behind at the last reading.
    pub(super) behind: Vec<Behind>,
}

/// How far a standby is behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Behind {
    pub name: String,
    pub lag: Duration,
    pub bytes: u64,
}

/// One, as it was told of.
#[derive(Debug, PartialEq)]
pub(super) struct Standby {
    name: String,
    /// Up to where it has replayed, or why that is not known.
    pub(super) position: Result<Lsn, String>,
    /// By itself, not by the server.
    asked: bool,
}

impl Standby {
    /// Those that the server tells of.
    pub(super) fn all(rows: &[tokio_postgres::Row]) -> Vec<Standby> {
        let mut all: Vec<Standby> = Vec::new();
        for row in rows {
            let (Lossy(name), pid): (Lossy, i32) = (row.get(0), row.get(1));
            // Standbys of one name are told apart.
            let taken = all.iter().any(|standby| standby.name == name);
            let name = if taken { format!("{name} (pid {pid})") } else { name };
            let position = match (row.get(2), row.get::<_, Option<&str>>(3)) {
                (Some(replayed), _) => Ok(replayed),
                (None, Some(role)) => Err(hidden(role)),
                (None, None) => Err("it does not tell how far it is (a backup, or a receiver of the log, never does: --ignore-standby)".to_owned()),
            };
            all.push(Standby { name, position, asked: false });
        }
        all
    }

    /// One that was asked itself.
    pub(super) fn asked(name: &str, position: Result<Lsn, String>) -> Standby {
        Standby { name: name.to_owned(), position, asked: true }
    }

    fn signal(&self) -> String {
        let kind = if self.asked { "replica" } else { "standby" };
        format!("{kind} {}", self.name)
    }
}

impl Standbys {
    /// The readings.
    pub(super) fn read<'a>(
        &mut self,
        now_there: impl IntoIterator<Item = &'a Standby>,
        (written, positions): (Lsn, &Positions),
        limits: &Limits,
        now: Instant,
    ) -> Vec<Reading> {
        let ignored = |name: &str| limits.ignored.iter().any(|ignored| ignored == name);
        let mut readings = Vec::new();
        self.behind.clear();
        let mut before = std::mem::take(&mut self.replayed);
        for standby in now_there {
            let signal = standby.signal();
            let behind = standby.position.as_ref().map(|replayed| {
                let mut course = before.remove(&signal).unwrap_or_default();
                course.note(now, *replayed);
                let moved = course.since().unwrap_or(now);
                let behind = behind(standby, *replayed, (written, positions), now);
                let to_come = to_come(&behind, course.rate(SPAN));
                self.replayed.insert(signal.clone(), course);
                (behind, to_come, now.duration_since(moved))
            });
            if standby.asked || !ignored(&standby.name) {
                if !standby.asked {
                    self.seen.insert(signal.clone(), now);
                }
                readings.push(reading(signal, &behind, limits));
            }
            self.behind.extend(behind.map(|(behind, ..)| behind));
        }
        let ignored = |signal: &str| signal.strip_prefix("standby ").is_some_and(ignored);
        self.seen.retain(|signal, at| !ignored(signal) && now.duration_since(*at) < VANISHED);
        let gone = self.seen.iter().filter(|(_, at)| **at != now);
        readings.extend(gone.map(|(signal, at)| {
            let text = format!("gone for {} s", now.duration_since(*at).as_secs());
            Reading::of_standby(signal.clone(), None, text)
        }));
        readings
    }
}

fn behind(
    standby: &Standby,
    replayed: Lsn,
    (written, positions): (Lsn, &Positions),
    now: Instant,
) -> Behind {
    let bytes = written.bytes_since(replayed);
    let lag = if bytes < NOTHING { Duration::ZERO } else { positions.age(replayed, now) };
    Behind { name: standby.name.clone(), lag, bytes }
}

/// How far it will be behind, should nothing be written from here on: its lag tells how old is what it replays, and grows
/// for as long as what was written in that time takes it. One that gets twice what it can take is at its limit with a lag of
/// half of that.
fn to_come(Behind { lag, bytes, .. }: &Behind, rate: Option<f64>) -> Duration {
    let Some(rate) = rate.filter(|rate| *lag >= BUSY && *rate > 0.0) else { return *lag };
    let most = lag.saturating_mul(BELIEVED);
    Duration::try_from_secs_f64(*bytes as f64 / rate).unwrap_or(most).clamp(*lag, most)
}

/// Of how far it is behind and will be, and for how long it has not moved.
fn reading(
    signal: String,
    behind: &Result<(Behind, Duration, Duration), &String>,
    limits: &Limits,
) -> Reading {
    let (lag, to_come, bytes, still) = match behind {
        Ok((Behind { lag, bytes, .. }, to_come, still)) => (*lag, *to_come, *bytes, *still),
        Err(why) => return Reading::of_standby(signal, None, (*why).clone()),
    };
    // It had something to replay all that time, and did not: it is not slow, it stands. Its lag would only
    // tell so later.
    let stands = still.min(lag);
    if stands >= limits.standstill {
        let text = format!("it has replayed nothing for {:.1} s", stands.as_secs_f64());
        return Reading::of_standby(signal, Some(STANDS), text);
    }
    let by_time = to_come.as_secs_f64() / limits.lag.as_secs_f64();
    let by_size = bytes as f64 / limits.lag_bytes.max(1) as f64;
    let text = match by_time >= by_size {
        true if to_come > lag => {
            format!("{}, by what it has to replay", times(to_come, limits.lag))
        }
        true => times(lag, limits.lag),
        false => sizes(bytes, limits.lag_bytes),
    };
    Reading::of_standby(signal, Some(by_time.max(by_size)), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(name: &str, replayed: Option<u64>) -> Standby {
        let position = replayed.map(Lsn).ok_or("it is silent".to_owned());
        Standby { name: name.into(), position, asked: false }
    }

    #[test]
    fn a_standby_is_measured_by_time_and_by_size() {
        let (mut standbys, mut positions, start) =
            (Standbys::default(), Positions::default(), Instant::now());
        let limits = Limits { ignored: vec!["delayed".into()], ..Limits::default() };
        positions.note(start, Lsn(0));
        positions.note(start + Duration::from_secs(1), Lsn(1 << 20));
        let now = start + Duration::from_secs(2);
        let written = Lsn(1 << 20);
        let there = [
            standby("on time", Some((1 << 20) - 1000)),
            standby("late", Some(0)),
            standby("silent", None),
            standby("delayed", Some(0)),
        ];
        let readings = standbys.read(&there, (written, &positions), &limits, now);
        let told: Vec<_> =
            readings.iter().map(|r| (r.signal.as_str(), r.pressure, r.text.as_str())).collect();
        assert_eq!(
            told[0],
            ("standby on time", Some((1000.0) / (256 << 20) as f64), "1 kB of 256 MB")
        );
        assert_eq!(told[1], ("standby late", Some(0.5), "1.0 of 2 s"));
        assert_eq!((told[2].0, told[2].1), ("standby silent", None));
        assert_eq!(told.len(), 3, "what is ignored is not there");
        let behind: Vec<_> = standbys.behind.iter().map(|b| (b.name.as_str(), b.bytes)).collect();
        assert_eq!(behind, [("on time", 1000), ("late", 1 << 20), ("delayed", 1 << 20)]);
        assert_eq!(standbys.behind[1].lag, Duration::from_secs(1));

        let small = Limits { lag_bytes: 1 << 20, ..Limits::default() };
        let readings = standbys.read(&there[1..2], (written, &positions), &small, now);
        assert_eq!((readings[0].pressure, readings[0].text.as_str()), (Some(1.0), "1 of 1 MB"));
    }

    #[test]
    fn one_that_stands_still_stops_the_copy_before_its_lag_would() {
        let (mut standbys, mut positions, start) =
            (Standbys::default(), Positions::default(), Instant::now());
        let limits = Limits::default();
        let mut at = |millis: u64, written: u64, replayed: u64| {
            let now = start + Duration::from_millis(millis);
            positions.note(now, Lsn(written << 20));
            let there = [standby("eu", Some(replayed << 20))];
            standbys.read(&there, (Lsn(written << 20), &positions), &limits, now).remove(0)
        };
        assert_eq!(at(0, 1, 1).pressure, Some(0.0));
        assert_eq!(at(60_000, 1, 1).pressure, Some(0.0), "it has nothing to replay");
        assert_eq!(at(60_500, 2, 1).text, "1 of 256 MB", "for a moment");
        assert_eq!(at(61_400, 3, 1).text, "0.9 of 2 s");
        let stands = at(61_500, 3, 1);
        assert_eq!(
            (stands.pressure, stands.text.as_str()),
            (Some(2.0), "it has replayed nothing for 1.0 s")
        );
        let moves = at(61_700, 3, 2);
        assert_eq!(moves.text, "0.9 of 2 s, by what it has to replay", "it moves");
        assert_eq!(at(62_600, 5, 3).text, "2 of 256 MB");
        let slow = at(64_600, 6, 4);
        assert_eq!(slow.text, "4.0 of 2 s, by what it has to replay", "it is slow, and moves");
    }

    #[test]
    fn one_that_gets_more_than_it_can_take_is_held_before_it_is_late() {
        let (mut standbys, mut positions, start) =
            (Standbys::default(), Positions::default(), Instant::now());
        let limits = Limits::default();
        // It is written twice as fast as it replays, which is 4 MB a second.
        let mut at = |quarters: u64| {
            let now = start + Duration::from_millis(quarters * 250);
            positions.note(now, Lsn(quarters << 21));
            let there = [standby("eu", Some(quarters << 20))];
            standbys.read(&there, (Lsn(quarters << 21), &positions), &limits, now).remove(0)
        };
        let readings: Vec<Reading> = (0..=8).map(&mut at).collect();
        // Half of what was written is what it has replayed: that old is what comes next, and as much is to come.
        assert_eq!(readings[8].text, "2.0 of 2 s, by what it has to replay");
        assert!(readings.iter().all(|r| r.pressure.is_some_and(|p| p <= 1.0)), "{readings:?}");
        assert!(readings[5].pressure >= Some(0.6), "{readings:?}");
    }

    #[test]
    fn one_that_is_asked_itself_is_measured_the_same_and_not_ignored() {
        let (mut standbys, mut positions, now) =
            (Standbys::default(), Positions::default(), Instant::now());
        positions.note(now - Duration::from_secs(1), Lsn(1 << 20));
        let limits = Limits { ignored: vec!["eu:5432".into()], ..Limits::default() };
        let asked = |position: Result<Lsn, &str>| {
            Standby::asked("eu:5432", position.map_err(str::to_owned))
        };
        let mut read =
            |there: &[Standby]| standbys.read(there, (Lsn(1 << 20), &positions), &limits, now);
        let late = read(&[asked(Ok(Lsn(0)))]).remove(0);
        assert_eq!((late.signal.as_str(), late.text.as_str()), ("replica eu:5432", "1.0 of 2 s"));
        let blind = read(&[asked(Err("no answer"))]).remove(0);
        assert_eq!((blind.pressure, blind.text.as_str()), (None, "no answer"));
        assert_eq!(read(&[]), [], "it did not vanish: the operator took it away");
    }

    #[test]
    fn one_that_vanishes_counts_as_over_for_a_while() {
        let (mut standbys, positions, start) =
            (Standbys::default(), Positions::default(), Instant::now());
        let limits = Limits::default();
        let mut at = |seconds, there: &[Standby]| {
            let now = start + Duration::from_secs(seconds);
            standbys.read(there, (Lsn(0), &positions), &limits, now)
        };
        assert_eq!(at(0, &[standby("eu", Some(0))])[0].pressure, Some(0.0));
        let gone = at(10, &[]);
        assert_eq!((gone[0].pressure, gone[0].text.as_str()), (None, "gone for 10 s"));
        assert_eq!(at(40, &[]), []);
    }
}
