//! How far the physical standbys are behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::positions::Positions;
use super::{hidden, sizes, times};
use crate::pg::{Lossy, Lsn};
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// What a standby last reported: one that has replayed all but the last moment's log may say so only in
/// ten seconds (`wal_receiver_status_interval`), on a server that writes nothing meanwhile.
const NOTHING: u64 = 64 << 10;
/// One that vanishes may come back, and be further behind: for so long it counts as over.
const VANISHED: Duration = Duration::from_secs(30);

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
    /// By name, the last of those with one name.
    seen: BTreeMap<String, Instant>,
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

/// One, as the server tells of it.
#[derive(Debug)]
pub(super) struct Standby {
    name: String,
    position: Position,
}

/// Up to where it has replayed.
#[derive(Debug, Clone)]
enum Position {
    At(Lsn),
    /// It has not told, as one that is just beginning, or one that replays nothing.
    Untold,
    /// This role may not see it.
    Hidden(String),
}

impl Standby {
    pub(super) fn all(rows: &[tokio_postgres::Row]) -> Vec<Standby> {
        let mut all: Vec<Standby> = Vec::new();
        for row in rows {
            let (Lossy(name), pid): (Lossy, i32) = (row.get(0), row.get(1));
            // Standbys of one name are told apart.
            let taken = all.iter().any(|standby| standby.name == name);
            let name = if taken { format!("{name} (pid {pid})") } else { name };
            let position = match (row.get(2), row.get(3)) {
                (Some(replayed), _) => Position::At(replayed),
                (None, Some(role)) => Position::Hidden(role),
                (None, None) => Position::Untold,
            };
            all.push(Standby { name, position });
        }
        all
    }
}

impl Standbys {
    /// The readings, and whether one of them should report anew.
    pub(super) fn read(
        &mut self,
        now_there: &[Standby],
        (written, positions): (Lsn, &Positions),
        limits: &Limits,
        now: Instant,
    ) -> Vec<Reading> {
        let ignored = |name: &str| limits.ignored.iter().any(|ignored| ignored == name);
        let mut readings = Vec::new();
        self.behind.clear();
        for standby in now_there {
            let behind = behind(standby, written, positions, now);
            if !ignored(&standby.name) {
                self.seen.insert(standby.name.clone(), now);
                let behind = behind.as_ref().map_err(String::as_str);
                readings.push(of(&standby.name, behind, limits));
            }
            self.behind.extend(behind);
        }
        self.seen.retain(|name, at| !ignored(name) && now.duration_since(*at) < VANISHED);
        let gone = self.seen.iter().filter(|(_, at)| **at != now);
        readings.extend(gone.map(|(name, at)| Reading {
            signal: format!("standby {name}"),
            pressure: None,
            text: format!("gone for {} s", now.duration_since(*at).as_secs()),
        }));
        readings
    }
}

/// How far it is behind, or why that is not known.
fn behind(
    standby: &Standby,
    written: Lsn,
    positions: &Positions,
    now: Instant,
) -> Result<Behind, String> {
    let replayed = match &standby.position {
        Position::At(replayed) => *replayed,
        Position::Untold => return Err("it does not tell how far it is".to_owned()),
        Position::Hidden(role) => return Err(hidden(role)),
    };
    let bytes = written.bytes_since(replayed);
    let lag = if bytes < NOTHING { Duration::ZERO } else { positions.age(replayed, now) };
    Ok(Behind { name: standby.name.clone(), lag, bytes })
}

fn of(name: &str, behind: Result<&Behind, &str>, limits: &Limits) -> Reading {
    let signal = format!("standby {name}");
    let (lag, bytes) = match behind {
        Ok(behind) => (behind.lag, behind.bytes),
        Err(why) => return Reading { signal, pressure: None, text: why.to_owned() },
    };
    let by_time = lag.as_secs_f64() / limits.lag.as_secs_f64();
    let by_size = bytes as f64 / limits.lag_bytes.max(1) as f64;
    let text = match by_time >= by_size {
        true => times(lag, limits.lag),
        false => sizes(bytes, limits.lag_bytes),
    };
    Reading { signal, pressure: Some(by_time.max(by_size)), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(name: &str, replayed: Option<u64>) -> Standby {
        let position = replayed.map_or(Position::Untold, |replayed| Position::At(Lsn(replayed)));
        Standby { name: name.into(), position }
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
            ("standby on time", Some((1000.0) / (256 << 20) as f64), "1 of 256 MB")
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
    fn one_that_may_not_be_seen_is_not_measured_and_says_what_is_lacking() {
        let (mut standbys, positions) = (Standbys::default(), Positions::default());
        let there =
            [Standby { name: "eu".into(), position: Position::Hidden("\"App user\"".into()) }];
        let seen = (Lsn(0), &positions);
        let readings = standbys.read(&there, seen, &Limits::default(), Instant::now());
        assert_eq!((readings[0].signal.as_str(), readings[0].pressure), ("standby eu", None));
        assert!(readings[0].text.contains("GRANT pg_read_all_stats TO \"App user\""));
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
