//! What the whole table would take, from what a part of it took: a pure function.

use super::measure::{Copied, Seen};

/// How far a measured rate may be off, besides what was seen of that.
const DOUBT: f64 = 0.1;
/// Index builds sort, and larger ones through files: more than in proportion.
const INDEX_DOUBT: f64 = 0.25;

/// What a statement may cost however few rows it is about: locks, catalogs, a commit, a file.
const STATEMENT: f64 = 0.1;
/// VACUUM and ANALYZE, the new table's settings, the sessions for that.
const VACUUM: f64 = 3.0 * STATEMENT;
/// A comparison: its sessions, the fence, and a range at each place.
const VERIFY: f64 = 5.0 * STATEMENT;

/// Seconds, and between what.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Span {
    pub seconds: f64,
    pub least: f64,
    pub most: f64,
}

impl Span {
    fn around(seconds: f64, doubt: f64) -> Span {
        Span { seconds, least: seconds / (1.0 + doubt), most: seconds * (1.0 + doubt) }
    }

    /// What took so long for a part, for so many times the rows. Up to `fixed` of it may be what it costs however few
    /// they are: the least grows by the rest alone. What is told is in the middle, by factors.
    fn grown(seconds: f64, times: f64, fixed: f64, doubt: f64) -> Span {
        let fixed = fixed.min(seconds);
        let (least, most) = (fixed + (seconds - fixed) * times, seconds * times);
        Span {
            seconds: (least * most).sqrt(),
            least: least / (1.0 + doubt),
            most: most * (1.0 + doubt),
        }
    }

    fn plus(self, other: Span) -> Span {
        Span {
            seconds: self.seconds + other.seconds,
            least: self.least + other.least,
            most: self.most + other.most,
        }
    }
}

/// What a run is to be expected to take and to need. None is what nothing is known of: where no rows were copied,
/// that is all.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Forecast {
    /// In order, by the names of the run's phases; without those of which nothing is known.
    pub phases: Vec<(&'static str, Span)>,
    pub total: Option<Span>,
    /// Bytes of the new table and of its indexes.
    pub table_bytes: Option<f64>,
    pub index_bytes: Option<f64>,
    /// Without what applying changes writes.
    pub wal_bytes: Option<f64>,
    /// WAL that the slot holds back at most: during the build of the largest index, where that is not built
    /// CONCURRENTLY. None where nothing was captured, or none is built: ranges alone hold it back then.
    pub slot_bytes: Option<f64>,
    pub slot_limit: u64,
    /// Whether changes are applied faster than they come; None where none came, or too few were applied to say.
    pub converges: Option<bool>,
}

impl Forecast {
    /// Of what was seen.
    pub(super) fn of(seen: &Seen) -> Forecast {
        let (copied, wanted) = (seen.copied.rows as f64, seen.wanted());
        let Some(copy) = copy(seen) else {
            return Forecast { slot_limit: seen.slot_limit, ..Forecast::default() };
        };
        let times = (wanted / copied.max(1.0)).max(1.0);
        // A sort takes n log n.
        let sorted = times * wanted.max(2.0).log2() / copied.max(2.0).log2();
        let fixed = STATEMENT * seen.indexes.len() as f64;
        let builds = Span::grown(seen.index_seconds, sorted, fixed, INDEX_DOUBT);
        let builds = builds.plus(Span::around(seen.choice_seconds, DOUBT));
        let index = builds.plus(Span::grown(seen.vacuum_seconds, times, VACUUM, DOUBT));
        let (catch_up, converges) = caught_up(seen, copy.seconds + builds.seconds);
        let mut phases = vec![
            ("prepare", Span::around(seen.prepare_seconds, DOUBT)),
            ("copy", copy),
            // The run waits for the changes in there, before its unique indexes.
            ("index", index.plus(catch_up)),
        ];
        if let Some((rows, seconds)) = seen.verified.filter(|(rows, _)| *rows > 0) {
            let times = (wanted / rows as f64).max(1.0);
            phases.push(("verify", Span::grown(seconds, times, VERIFY, 2.0 * DOUBT)));
        }
        if seen.cutover.is_some() {
            phases.push(("cutover", Span::around(seen.cutover_seconds, 1.0)));
        }
        let total = phases.iter().fold(Span::default(), |sum, (_, span)| sum.plus(*span));
        let index_bytes: f64 = seen.indexes.iter().map(|(_, bytes)| *bytes as f64).sum();
        Forecast {
            total: Some(total),
            table_bytes: Some(seen.table_bytes as f64 * times),
            index_bytes: Some(index_bytes * times),
            wal_bytes: Some((seen.copy_wal + seen.index_wal) * times),
            slot_bytes: seen
                .changes
                .filter(|_| !seen.indexes_before)
                .map(|_| held_back(seen, times, builds.seconds)),
            slot_limit: seen.slot_limit,
            converges,
            phases,
        }
    }
}

/// None where nothing was copied.
fn copy(seen: &Seen) -> Option<Span> {
    let Copied { warm_up_seconds, warm_up_rows, .. } = seen.copied;
    let left = (seen.wanted() - warm_up_rows).max(0.0);
    let at = |rate: f64| warm_up_seconds + left / rate.max(0.001);
    Some(Span {
        seconds: at(seen.copied.rows_per_second?),
        least: at(seen.copied.fastest? * (1.0 + DOUBT)),
        most: at(seen.copied.slowest? / (1.0 + DOUBT)),
    })
}

/// The time to apply what changes in the `waited` seconds before, and whether it gets there.
fn caught_up(seen: &Seen, waited: f64) -> (Span, Option<bool>) {
    let Some(changes) = seen.changes else { return (Span::default(), None) };
    let Some(out) = changes.out_per_second else {
        // However few came, all of them were applied.
        let keeps_up = changes.in_per_second > 0.0 && changes.left == 0;
        return (Span::default(), keeps_up.then_some(true));
    };
    // A row that changes again is one key still.
    let waiting = (changes.in_per_second * waited).min(seen.rows);
    // Applied were those that came meanwhile, too.
    let faster = out - changes.in_per_second;
    if faster <= 0.0 {
        return (Span::default(), Some(false));
    }
    (Span::around(waiting / faster, INDEX_DOUBT), Some(true))
}

/// All that is written while the largest index is built; no more than half of what the slot may hold back,
/// since it would be built CONCURRENTLY then.
fn held_back(seen: &Seen, times: f64, builds: f64) -> f64 {
    let all: f64 = seen.indexes.iter().map(|(_, bytes)| *bytes as f64).sum();
    let largest = seen.indexes.iter().map(|(_, bytes)| *bytes as f64).fold(0.0, f64::max);
    let share = if all > 0.0 { largest / all } else { 0.0 };
    let plain = largest * times + seen.wal_per_second * builds * share;
    plain.min(seen.slot_limit as f64 / 2.0)
}

#[cfg(test)]
mod tests {
    use super::super::measure::Changes;
    use super::*;

    fn seen() -> Seen {
        Seen {
            rows: 1_000_000.0,
            prepare_seconds: 1.0,
            copied: Copied {
                rows: 100_000,
                passed: 100_000,
                seconds: 10.0,
                rows_per_second: Some(10_000.0),
                slowest: Some(8_000.0),
                fastest: Some(12_000.0),
                ..Copied::default()
            },
            index_seconds: 2.0,
            vacuum_seconds: 1.0,
            changes: Some(Changes { in_per_second: 100.0, out_per_second: Some(1_100.0), left: 0 }),
            verified: Some((100_000, 3.0)),
            table_bytes: 1_000,
            indexes: vec![("a".into(), 300), ("b".into(), 100)],
            wal_per_second: 10.0,
            copy_wal: 1_500.0,
            index_wal: 500.0,
            slot_limit: 1 << 30,
            ..Seen::default()
        }
    }

    fn seconds(forecast: &Forecast, phase: &str) -> f64 {
        forecast.phases.iter().find(|(name, _)| *name == phase).unwrap().1.seconds
    }

    #[test]
    fn the_whole_takes_as_much_more_as_it_is_larger() {
        let forecast = Forecast::of(&seen());
        assert_eq!(seconds(&forecast, "prepare"), 1.0, "that does not grow");
        assert_eq!(seconds(&forecast, "copy"), 100.0);
        // 3 s ten times, or what is more than half a second of them.
        let verify = seconds(&forecast, "verify");
        assert!((27.0..28.0).contains(&verify), "{verify}");
        // 2 s ten times, and a fifth more for the sort; 10 s of VACUUM, or 7 s; 123 s of changes, a tenth of that.
        let index = seconds(&forecast, "index");
        assert!((43.0..45.0).contains(&index), "{index}");
        assert_eq!((forecast.table_bytes, forecast.index_bytes), (Some(10_000.0), Some(4_000.0)));
        assert_eq!(forecast.wal_bytes, Some(20_000.0));
        let sum: f64 = forecast.phases.iter().map(|(_, span)| span.seconds).sum();
        let total = forecast.total.unwrap();
        assert_eq!(total.seconds, sum);
        assert!(total.least < sum && sum < total.most);
        // The largest index, and what the application writes in three quarters of the builds' time.
        let held = forecast.slot_bytes.unwrap();
        assert!((3_160.0..3_180.0).contains(&held), "{held}");
    }

    #[test]
    fn that_it_begins_slowly_does_not_grow() {
        let mut seen = seen();
        (seen.copied.warm_up_seconds, seen.copied.warm_up_rows) = (5.0, 10_000.0);
        assert_eq!(seconds(&Forecast::of(&seen), "copy"), 5.0 + 99.0);
    }

    #[test]
    fn what_comes_faster_than_it_is_applied_does_not_converge() {
        let with = |changes| Forecast::of(&Seen { changes, ..seen() }).converges;
        let changes =
            |in_per_second, out_per_second, left| Changes { in_per_second, out_per_second, left };
        assert_eq!(with(Some(changes(100.0, Some(200.0), 0))), Some(true));
        assert_eq!(with(Some(changes(300.0, Some(200.0), 0))), Some(false));
        assert_eq!(with(Some(changes(1.0, None, 0))), Some(true), "few, and all were applied");
        assert_eq!(with(Some(changes(1.0, None, 3))), None);
        assert_eq!(with(Some(changes(0.0, None, 0))), None);
        assert_eq!(with(None), None);
    }

    #[test]
    fn what_a_statement_costs_anyway_may_not_grow() {
        let all = Seen { rows: 1_000_000_000.0, index_seconds: 0.1, changes: None, ..seen() };
        let index = Forecast::of(&Seen { vacuum_seconds: 0.2, ..all }).phases[2].1;
        assert!(index.least < 1.0, "{index:?}");
        assert!(index.most > 3_000.0, "{index:?}");
        assert!((10.0..100.0).contains(&index.seconds), "{index:?}");
        // What takes long grows as it did.
        let long = Span::grown(60.0, 10.0, STATEMENT, DOUBT);
        assert!(long.seconds > 599.0 && long.least > 540.0, "{long:?}");
    }

    #[test]
    fn where_some_rows_are_wanted_the_whole_is_as_many_of_all() {
        let mut seen = seen();
        seen.copied.passed = 500_000;
        assert_eq!(seen.wanted(), 200_000.0);
        let forecast = Forecast::of(&seen);
        assert_eq!(seconds(&forecast, "copy"), 20.0);
        assert_eq!(forecast.table_bytes, Some(2_000.0));
    }

    #[test]
    fn nothing_is_said_of_what_was_not_seen() {
        let nothing = Seen { copied: Copied::default(), ..seen() };
        let forecast = Forecast::of(&nothing);
        assert!(forecast.phases.is_empty());
        assert_eq!((forecast.total, forecast.table_bytes), (None, None));
        assert_eq!((forecast.index_bytes, forecast.wal_bytes), (None, None));
        let blind = Seen { changes: None, verified: None, ..seen() };
        let forecast = Forecast::of(&blind);
        assert_eq!(forecast.slot_bytes, None);
        assert!(forecast.phases.iter().all(|(name, _)| *name != "verify"));
    }

    #[test]
    fn more_than_all_is_not_more() {
        let all = Seen { rows: 90_000.0, ..seen() };
        assert_eq!(Forecast::of(&all).table_bytes, Some(1_000.0));
    }
}
