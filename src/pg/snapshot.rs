//! Snapshots as `pg_current_snapshot()` prints them, and the question Invariant 3 asks of them.

use std::str::FromStr;

/// What a snapshot sees, in full (64-bit) transaction ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// In progress when the snapshot was taken; sorted.
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Whether a transaction that has ended is seen by this snapshot.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && (xid < self.xmin || self.in_progress.binary_search(&xid).is_err())
    }

    /// The first transaction id not yet assigned when the snapshot was taken.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }
}

impl FromStr for Snapshot {
    type Err = String;

    /// Parses `xmin:xmax:xip,xip,…`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |_| format!("{text:?} is not a snapshot");
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().unwrap_or("");
        let xmin = next().parse().map_err(bad)?;
        let xmax = next().parse().map_err(bad)?;
        let list = next();
        let mut in_progress = match list {
            "" => Vec::new(),
            _ => list.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(bad)?,
        };
        in_progress.sort_unstable();
        Ok(Snapshot { xmin, xmax, in_progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_had_ended_and_nothing_else() {
        let s: Snapshot = "100:105:102,101".parse().unwrap();
        for (xid, seen) in
            [(99, true), (100, true), (101, false), (102, false), (104, true), (105, false)]
        {
            assert_eq!(s.sees(xid), seen, "{xid}");
        }
        assert_eq!("7:7:".parse::<Snapshot>().unwrap().xmax(), 7);
        for bad in ["", "1", "a:b:", "1:2:x", "1:2:3,"] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad}");
        }
    }
}
