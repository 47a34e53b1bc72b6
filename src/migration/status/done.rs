//! How far a migration is, and when its phase will be over.

use crate::error::Result;
use crate::pg::Session;

/// Rows of a shorter time say nothing of the time to come, in seconds.
const LEAST: f64 = 10.0;

/// How far a migration is, in rows and by the key.
pub(super) struct Done {
    pub(super) copied: i64,
    pub(super) verified: i64,
    pub(super) estimated: Option<i64>,
    /// A share of the key space, by how many rows there are in it.
    pub(super) key_position: Option<f32>,
    /// What a verification that began once more had compared, as a share of all.
    pub(super) floor: f64,
}

impl Done {
    /// What is not at its end is never told to be; and never less than before, since nothing here ever is:
    /// the estimate is the one that the migration began with.
    pub(super) fn percent(&self, phase: &str) -> Option<f64> {
        let share = match phase {
            "copy" => match self.key_position {
                // No estimate is in it.
                Some(position) => f64::from(position),
                None => self.copied as f64 / self.estimated?.max(1) as f64,
            },
            // Of filling; what else is done is told by steps.
            "in place" => f64::from(self.key_position?),
            // The rest is what is read again.
            "verify" => {
                let share = (self.verified as f64 / self.all()?.max(1) as f64).min(1.0);
                self.floor + (1.0 - self.floor) * share
            }
            _ => return None,
        };
        Some((share * 100.0).clamp(0.0, 99.0))
    }

    /// Rows that are left of the phase.
    pub(super) fn left(&self, phase: &str) -> Option<f64> {
        let share = self.percent(phase)? / 100.0;
        match phase {
            "copy" | "in place" if self.key_position.is_some_and(|p| p > 0.0) => {
                Some(self.copied as f64 / share.max(0.001) * (1.0 - share))
            }
            "copy" => Some((self.estimated? - self.copied).max(0) as f64),
            _ => Some((self.all()? - self.verified).max(0) as f64),
        }
    }

    /// What it will take, as long as rows are copied: both tables are read at about the pace at which one is read and
    /// the other written (measured: 3.9 s and 4.0 s).
    pub(super) fn verification(&self, phase: &str, pace: f64) -> Option<f64> {
        (phase == "copy" && pace > 0.0).then(|| self.all().map(|rows| rows as f64 / pace)).flatten()
    }

    /// What was copied is known better than what the server once estimated.
    fn all(&self) -> Option<i64> {
        Some(self.estimated.unwrap_or(0).max(self.copied)).filter(|rows| *rows > 0)
    }
}

/// Rows that the phase has done lately, and since when there are any.
pub(super) struct Lately {
    pub(super) minute: i64,
    pub(super) quarter: i64,
    /// Within the last quarter of an hour.
    pub(super) seconds: Option<f64>,
}

impl Lately {
    /// Rows a second in the last minute, and in the last quarter of an hour; of a phase that is younger, as long as it is.
    pub(super) fn paces(&self) -> [f64; 2] {
        let seconds = self.seconds.unwrap_or(0.0).max(1.0);
        let pace = |rows: i64, span: f64| rows as f64 / span.min(seconds);
        [pace(self.minute, 60.0), pace(self.quarter, 900.0)]
    }

    /// Whether that says anything of what is to come.
    fn tells(&self) -> bool {
        self.seconds.is_some_and(|seconds| seconds >= LEAST)
    }
}

/// When so many rows will be done, at one pace or the other, by the server's clock.
pub(super) async fn eta(session: &Session, left: f64, lately: &Lately) -> Result<Option<String>> {
    if !lately.tells() {
        return Ok(None);
    }
    let paces = lately.paces().into_iter().filter(|pace| *pace > 0.0);
    let mut seconds: Vec<f64> = paces.map(|pace| left / pace).collect();
    seconds.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (seconds.first(), seconds.last()) else { return Ok(None) };
    // A month ahead nothing is known.
    if *last > 30.0 * 86_400.0 {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp() + $1::pg_catalog.float8 * interval '1 second', f.format), \
               pg_catalog.to_char(pg_catalog.clock_timestamp() + $2::pg_catalog.float8 * interval '1 second', f.format) \
               FROM (SELECT CASE WHEN $2::pg_catalog.float8 < 43200 THEN 'HH24:MI' ELSE 'YYYY-MM-DD HH24:MI' END) f (format)";
    let row = session.one(sql, &[first, last]).await?;
    let (first, last): (String, String) = (row.get(0), row.get(1));
    Ok(Some(if first == last { first } else { format!("{first}–{last}") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::status::Disk;

    fn done(copied: i64, verified: i64, estimated: Option<i64>, key: Option<f32>) -> Done {
        Done { copied, verified, estimated, key_position: key, floor: 0.0 }
    }

    #[test]
    fn percent_is_never_more_than_is_known() {
        assert_eq!(done(50, 0, Some(200), None).percent("copy"), Some(25.0));
        assert_eq!(
            done(500, 0, Some(200), None).percent("copy"),
            Some(99.0),
            "the estimate is too low"
        );
        assert_eq!(done(50, 0, None, None).percent("copy"), None);
        assert_eq!(
            done(50, 0, Some(10), Some(0.5)).percent("copy"),
            Some(50.0),
            "the key knows better"
        );
        assert_eq!(done(400, 100, Some(200), None).percent("verify"), Some(25.0));
        assert_eq!(done(400, 100, None, Some(1.0)).percent("verify"), Some(25.0));
        assert_eq!(done(400, 100, Some(200), None).percent("index"), None);
        assert_eq!(done(0, 0, None, None).percent("verify"), None);
    }

    #[test]
    fn what_comes_behind_the_copy_is_told_only_where_it_is_known() {
        assert_eq!(done(50, 0, Some(200), None).verification("copy", 10.0), Some(20.0));
        assert_eq!(done(50, 0, Some(200), None).verification("copy", 0.0), None);
        assert_eq!(done(50, 0, Some(200), None).verification("index", 10.0), None);
        let disk = Disk { shadow: 0, source: 1_000, indexes: 200, index_count: 3 };
        assert_eq!(disk.seconds(100, false), 10.0);
        assert_eq!(disk.seconds(100, true), 2.0);
    }

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        assert_eq!(done(50, 0, Some(200), None).left("copy"), Some(150.0));
        assert_eq!(done(500, 0, Some(200), None).left("copy"), Some(0.0));
        assert_eq!(done(50, 0, Some(10), Some(0.25)).left("copy"), Some(150.0));
        assert_eq!(done(400, 100, None, None).left("verify"), Some(300.0));
        assert_eq!(done(400, 100, None, None).left("cutover"), None);
    }

    #[test]
    fn a_verification_that_begins_once_more_does_not_go_back() {
        let at =
            |verified, floor| Done { floor, ..done(400, verified, None, None) }.percent("verify");
        assert_eq!((at(200, 0.0), at(0, 0.5), at(200, 0.5)), (Some(50.0), Some(50.0), Some(75.0)));
        assert_eq!(at(400, 0.5), Some(99.0));
    }

    #[test]
    fn a_young_phase_has_the_pace_of_its_own_time() {
        let lately = |minute, quarter, seconds| Lately { minute, quarter, seconds };
        assert_eq!(lately(100, 100, Some(20.0)).paces(), [5.0, 5.0]);
        assert_eq!(lately(600, 6_000, Some(300.0)).paces(), [10.0, 20.0]);
        assert_eq!(lately(0, 0, None).paces(), [0.0, 0.0]);
        assert!(!lately(100, 100, Some(2.0)).tells() && lately(100, 100, Some(20.0)).tells());
    }
}
