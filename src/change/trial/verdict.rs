//! Which way a change should go, by what PostgreSQL does for it: pure.

use super::lock::Lock;
use super::observed::Observed;

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The catalogs alone change: in place, with a short lock_timeout and retries.
    Instant,
    /// In place as typed: rows are read, or an index is built, under a lock that keeps nobody out.
    Online,
    /// In place with care: in steps of which none keeps anybody out for long.
    Careful,
    /// A new table beside it.
    ShadowCopy,
    /// PostgreSQL could not be asked.
    Unknown,
}

impl Way {
    /// As it is said.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Instant => "instant",
            Way::Online => "in place",
            Way::Careful => "in place with care",
            Way::ShadowCopy => "shadow copy",
            Way::Unknown => "not known",
        }
    }
}

/// A way, and why it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub way: Way,
    pub why: String,
}

impl Verdict {
    /// `careful` says whether there are steps for all of it.
    pub(super) fn of(observed: &Observed, careful: bool) -> Verdict {
        if let Some(why) = &observed.no_way {
            return Verdict { way: Way::ShadowCopy, why: why.clone() };
        }
        let (work, lock) = (work(observed), observed.lock);
        let under = format!("under {} ({})", lock.sql(), lock.effect());
        let (way, why) = match work {
            None => (Way::Instant, format!("PostgreSQL changes its catalogs alone, {under}")),
            Some(work) if !blocks(observed) => (
                Way::Online,
                format!(
                    "PostgreSQL {}, and meanwhile reads and writes pass ({})",
                    work.trim_end_matches(','),
                    lock.sql()
                ),
            ),
            Some(work) if careful => (
                Way::Careful,
                format!("at once PostgreSQL {work} {under}; in steps nobody waits for that"),
            ),
            Some(work) => (Way::ShadowCopy, format!("PostgreSQL {work} {under}")),
        };
        Verdict { way, why }
    }
}

fn blocks(observed: &Observed) -> bool {
    let locks = observed.others.iter().map(|other| other.lock);
    locks.chain([observed.lock]).any(|lock| lock > Lock::ShareUpdateExclusive)
}

/// What takes longer the larger the table is.
fn work(observed: &Observed) -> Option<String> {
    let scanned: Vec<&str> =
        observed.others.iter().filter(|o| o.scanned).map(|o| o.table.as_str()).collect();
    if observed.rewritten {
        return Some("writes the whole table and its indexes anew".to_owned());
    }
    if !observed.built.is_empty() {
        return Some(format!("builds {} from all rows", some_of(&observed.built)));
    }
    if !scanned.is_empty() {
        return Some(format!("reads all rows of {}", scanned.join(", ")));
    }
    (observed.scans > 0).then(|| "reads all rows, to see that they fulfil it,".to_owned())
}

/// Partitions may have hundreds of their own.
fn some_of(names: &[String]) -> String {
    const TOLD: usize = 5;
    match names.split_at_checked(TOLD) {
        Some((told, rest)) if !rest.is_empty() => {
            format!("{} and {} others", told.join(", "), rest.len())
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::Other;
    use super::*;

    fn nothing(lock: Lock) -> Observed {
        Observed {
            lock,
            rewritten: false,
            scans: 0,
            built: vec![],
            others: vec![],
            gains: vec![],
            moved: false,
            dropped: vec![],
            retyped: vec![],
            no_way: None,
            becomes: None,
        }
    }

    fn way(observed: &Observed, careful: bool) -> Way {
        Verdict::of(observed, careful).way
    }

    #[test]
    fn what_grows_with_the_table_decides_and_then_the_lock() {
        let catalogs = nothing(Lock::AccessExclusive);
        assert_eq!(way(&catalogs, false), Way::Instant);
        let reads = Observed { scans: 1, ..catalogs.clone() };
        assert_eq!((way(&reads, true), way(&reads, false)), (Way::Careful, Way::ShadowCopy));
        let harmless = Observed { scans: 1, ..nothing(Lock::ShareUpdateExclusive) };
        assert_eq!(way(&harmless, true), Way::Online);
        let builds = Observed { built: vec!["i".into()], ..catalogs.clone() };
        assert_eq!((way(&builds, true), way(&builds, false)), (Way::Careful, Way::ShadowCopy));
        let writes = Observed { rewritten: true, scans: 1, ..catalogs };
        assert_eq!(way(&writes, false), Way::ShadowCopy);
        assert!(Verdict::of(&writes, false).why.contains("ACCESS EXCLUSIVE"));
    }

    #[test]
    fn of_many_indexes_some_are_named() {
        let names = |n: usize| (0..n).map(|n| format!("i{n}")).collect::<Vec<_>>();
        assert_eq!(some_of(&names(2)), "i0, i1");
        assert_eq!(some_of(&names(5)), "i0, i1, i2, i3, i4");
        assert_eq!(some_of(&names(7)), "i0, i1, i2, i3, i4 and 2 others");
    }

    #[test]
    fn what_is_refused_is_for_no_way_in_place() {
        let refused = Observed { no_way: Some("no".into()), ..nothing(Lock::AccessExclusive) };
        assert_eq!((way(&refused, false), way(&refused, true)), (Way::ShadowCopy, Way::ShadowCopy));
    }

    #[test]
    fn other_tables_count_as_much() {
        let other = |lock, scanned| Other { table: "\"a\".\"b\"".into(), oid: 1, lock, scanned };
        let weak = nothing(Lock::ShareUpdateExclusive);
        let locked = Observed {
            scans: 1,
            others: vec![other(Lock::ShareRowExclusive, false)],
            ..weak.clone()
        };
        assert_eq!(way(&locked, false), Way::ShadowCopy);
        let scanned = Observed { others: vec![other(Lock::AccessExclusive, true)], ..weak };
        let verdict = Verdict::of(&scanned, false);
        assert_eq!(verdict.way, Way::ShadowCopy);
        assert!(verdict.why.contains("\"a\".\"b\""), "{}", verdict.why);
    }
}
