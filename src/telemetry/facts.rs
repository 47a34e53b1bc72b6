//! What is known of a run by now: what its samples add up to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sample::{Held, Sample, Slot, Speed, Standby, Timed, Waits};
use super::timing::Buckets;

/// Whoever watches over the run says so more often; after this long without a word it is stuck.
const SILENCE: Duration = Duration::from_secs(45);

/// What is known of a run by now.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) table: String,
    /// When this was last true.
    pub(super) at: Instant,
    pub(super) phase: Option<(&'static str, Instant)>,
    /// The phases before, with their seconds.
    pub(super) phases: Vec<(&'static str, f64)>,
    pub(super) rows_expected: u64,
    pub(super) rows_before: u64,
    pub(super) rows_copied: u64,
    pub(super) chunks: u64,
    /// The number of the furthest range that was copied.
    pub(super) position: i64,
    pub(super) rows_compared: u64,
    pub(super) mismatches: u64,
    pub(super) keys_waiting: u64,
    pub(super) keys_synced: u64,
    pub(super) rate: Rate,
    pub(super) speed: Option<Box<Speed>>,
    pub(super) slot: Option<Slot>,
    pub(super) waits: Option<(Instant, Waits)>,
    /// Why it does not work now, and goes on later.
    pub(super) rests: Option<String>,
    /// What the swap waits for.
    pub(super) lock_waits: Option<String>,
    /// What a verification that began once more had compared, as a share of all.
    floor: f64,
    pub(super) buckets: [Buckets; Timed::ALL.len()],
}

/// Rows per second over the recent past.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    at: Option<(Instant, u64)>,
    pub(super) per_second: f64,
}

impl Facts {
    pub(super) fn new(table: &str) -> Self {
        Facts {
            table: table.to_owned(),
            at: Instant::now(),
            phase: None,
            phases: Vec::new(),
            rows_expected: 0,
            rows_before: 0,
            rows_copied: 0,
            chunks: 0,
            position: 0,
            rows_compared: 0,
            mismatches: 0,
            keys_waiting: 0,
            keys_synced: 0,
            rate: Rate::default(),
            speed: None,
            slot: None,
            waits: None,
            rests: None,
            lock_waits: None,
            floor: 0.0,
            buckets: Default::default(),
        }
    }

    pub(super) fn take(&mut self, sample: Sample) {
        match sample {
            Sample::Phase(name) => {
                self.end_phase();
                self.phase = Some((name, Instant::now()));
            }
            Sample::Rows(rows) => self.rows_expected = rows,
            Sample::CopiedBefore(rows) => self.rows_before = rows.saturating_sub(self.rows_copied),
            Sample::Copied(rows, number) => {
                self.rows_copied += rows;
                self.chunks += 1;
                self.position = self.position.max(number);
            }
            Sample::Compared(rows) => self.rows_compared += rows,
            Sample::Differ(rows) => self.mismatches += rows,
            Sample::Dirty(waiting, synced) => {
                (self.keys_waiting, self.keys_synced) = (waiting, synced);
            }
            Sample::Speed(speed) => self.speed = Some(speed),
            Sample::Slot(slot) => self.slot = Some(slot),
            Sample::Watched(waits) => self.waits = waits.map(|waits| (Instant::now(), waits)),
            Sample::Rests(why) => self.rests = why,
            Sample::LockWaits(why) => self.lock_waits = why,
            Sample::ComparedAnew => {
                self.floor = self.share().unwrap_or(0.0);
                self.rows_compared = 0;
            }
            Sample::Took(what, took) => self.buckets[what as usize].record(took),
            Sample::Ahead(_) | Sample::Note(_) => {}
        }
    }

    /// The phase that is under way is over.
    pub(super) fn end_phase(&mut self) {
        if let Some((name, since)) = self.phase.take() {
            self.phases.push((name, since.elapsed().as_secs_f64()));
        }
    }

    /// What is true from now on.
    pub(super) fn refresh(&mut self) {
        self.at = Instant::now();
        let done = self.progress().map_or(0, |(done, _)| done);
        self.rate.update(done, self.at);
    }

    /// Rows that the phase has done, and about how many there are; None where rows say nothing.
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        let copied = self.rows_copied + self.rows_before;
        match self.phase?.0 {
            "copy" | "fill" => Some((copied, self.rows_expected)),
            // What was copied is known better than what the server once estimated.
            "verify" => Some((self.rows_compared, self.rows_expected.max(copied))),
            _ => None,
        }
    }

    /// The estimate is one: what is not at its end is never told to be. Nor less than before: a verification that begins
    /// once more has the rest before it, however much it reads again.
    pub(super) fn percent(&self) -> Option<f64> {
        self.share().map(|share| (share * 100.0).min(99.0))
    }

    fn share(&self) -> Option<f64> {
        let (done, all) = self.progress()?;
        let share = (all > 0).then(|| (done as f64 / all as f64).min(1.0))?;
        let floor = if self.phase?.0 == "verify" { self.floor } else { 0.0 };
        Some(floor + (1.0 - floor) * share)
    }

    /// How long the phase will take yet, where that can be told.
    pub(super) fn left(&self) -> Option<Duration> {
        let held = self.speed.as_ref().map(|speed| speed.held);
        if matches!(held, Some(Held::Paused | Held::Stopped | Held::Blind)) {
            return None;
        }
        let (done, all) = self.progress()?;
        let rows = all.checked_sub(done).filter(|rows| *rows > 0)?;
        let seconds = rows as f64 / self.rate.per_second;
        (seconds < 1e7).then(|| Duration::from_secs_f64(seconds))
    }

    /// The standby that is furthest behind.
    pub(super) fn furthest_behind(&self) -> Option<&Standby> {
        self.speed.as_ref()?.standbys.iter().max_by_key(|standby| standby.lag)
    }

    /// Why it is stuck, if it is. That it goes slowly, or was told to rest, is as it should be.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let silent = |at: Instant| now.saturating_duration_since(at).as_secs();
        if now.saturating_duration_since(self.at) > SILENCE {
            return Some(format!("nothing was heard of the run for {} s", silent(self.at)));
        }
        if let Some(why) = &self.rests {
            return Some(why.clone());
        }
        let (at, waits) = self.waits.as_ref()?;
        if now.saturating_duration_since(*at) > SILENCE {
            return Some(format!("the server has not answered for {} s", silent(*at)));
        }
        (!waits.long.is_empty()).then(|| waits.long.join("; "))
    }

    /// The same for programs, with the names of `pgwraith status --json`.
    pub(super) fn as_json(&self, now: Instant) -> Value {
        let speed = self.speed.as_deref();
        let trouble = self.trouble(now);
        json!({
            "source": self.table,
            "phase": self.phase.map(|(name, _)| name),
            "phase_seconds": self.phase.map(|(_, since)| now.duration_since(since).as_secs_f64()),
            "percent": self.percent(),
            "seconds_left": self.left().map(|left| left.as_secs_f64()),
            "rows_copied": self.rows_copied + self.rows_before,
            "rows_compared": self.rows_compared,
            "rows_estimated": self.rows_expected,
            "rows_per_second": self.rate.per_second,
            "mismatches": self.mismatches,
            "reason": speed.map(|speed| &speed.reason),
            "workers": speed.map(|speed| speed.workers),
            "duty": speed.map(|speed| speed.duty),
            "paused": speed.is_some_and(|speed| speed.paused),
            "postponed": speed.is_some_and(|speed| speed.postponed),
            "keys_waiting": self.keys_waiting,
            "keys_synced": self.keys_synced,
            "slot": self.slot.as_ref().map(|slot| json!({
                "name": slot.name, "bytes": slot.retained, "safe_bytes": slot.safe, "lost": slot.lost,
            })),
            "blocks": self.waits.as_ref().is_some_and(|(_, waits)| waits.others > 0),
            "healthy": trouble.is_none(),
            "trouble": trouble,
            "lock_waits": self.lock_waits,
        })
    }
}

impl Rate {
    fn update(&mut self, done: u64, now: Instant) {
        let Some((at, before)) = self.at else {
            self.at = Some((now, done));
            return;
        };
        let span = now.duration_since(at).as_secs_f64();
        if done < before {
            *self = Rate { at: Some((now, done)), per_second: 0.0 };
        } else if span >= 1.0 {
            let fresh = (done - before) as f64 / span;
            // Ranges end one by one: what is left of the phase should not jump with each.
            self.per_second = match self.per_second {
                0.0 => fresh,
                known => known + (fresh - known) * 0.3,
            };
            self.at = Some((now, done));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying() -> Facts {
        let mut facts = Facts::new("public.t");
        facts.take(Sample::Rows(1000));
        facts.take(Sample::Phase("copy"));
        facts
    }

    #[test]
    fn what_is_left_follows_from_the_rate() {
        let mut facts = copying();
        assert_eq!((facts.percent(), facts.left()), (Some(0.0), None));
        let start = Instant::now();
        facts.rate.update(0, start);
        facts.take(Sample::Copied(250, 3));
        facts.rate.update(250, start + Duration::from_secs(5));
        assert_eq!(facts.percent(), Some(25.0));
        assert_eq!(facts.left().map(|left| left.as_secs()), Some(15));
        facts.take(Sample::Copied(5000, 4));
        assert_eq!((facts.percent(), facts.left()), (Some(99.0), None), "more than estimated");
        facts.take(Sample::Phase("index"));
        assert_eq!((facts.percent(), facts.left()), (None, None));
    }

    #[test]
    fn rows_of_runs_before_are_not_counted_twice() {
        let mut facts = copying();
        facts.take(Sample::CopiedBefore(100));
        facts.take(Sample::Copied(50, 7));
        // The next stretch of the same run finds both in the state.
        facts.take(Sample::CopiedBefore(150));
        assert_eq!(facts.progress(), Some((150, 1000)));
    }

    #[test]
    fn stuck_is_who_waits_or_is_not_heard() {
        let mut facts = copying();
        let now = facts.at;
        assert_eq!(facts.trouble(now), None);
        assert!(facts.trouble(now + 2 * SILENCE).is_some_and(|why| why.contains("90 s")));
        facts.take(Sample::Watched(Some(Waits::default())));
        facts.at = now + 2 * SILENCE;
        let silent = facts.trouble(facts.at);
        assert!(silent.is_some_and(|why| why.starts_with("the server has not answered")));
        let long = vec!["\"copy 1\" waits for pid 7".to_owned()];
        facts.at = Instant::now();
        facts.take(Sample::Watched(Some(Waits { long, ..Waits::default() })));
        assert!(facts.trouble(facts.at).is_some_and(|why| why.contains("pid 7")));
        facts.take(Sample::Watched(None));
        facts.take(Sample::Rests(Some("the connection is lost".into())));
        assert!(facts.as_json(facts.at)["trouble"].as_str().is_some_and(|t| t.contains("lost")));
        facts.take(Sample::Rests(None));
        assert_eq!(facts.as_json(facts.at)["healthy"], true);
    }
}
