//! Lock modes of tables, by strength.

/// A mode of a table's lock, the weakest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl Lock {
    const ALL: [(Lock, &'static str, &'static str); 8] = [
        (Lock::AccessShare, "AccessShareLock", "ACCESS SHARE"),
        (Lock::RowShare, "RowShareLock", "ROW SHARE"),
        (Lock::RowExclusive, "RowExclusiveLock", "ROW EXCLUSIVE"),
        (Lock::ShareUpdateExclusive, "ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
        (Lock::Share, "ShareLock", "SHARE"),
        (Lock::ShareRowExclusive, "ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
        (Lock::Exclusive, "ExclusiveLock", "EXCLUSIVE"),
        (Lock::AccessExclusive, "AccessExclusiveLock", "ACCESS EXCLUSIVE"),
    ];

    /// By its name in `pg_locks`.
    pub fn parse(mode: &str) -> Option<Lock> {
        Lock::ALL.into_iter().find(|(_, name, _)| *name == mode).map(|(lock, ..)| lock)
    }

    /// As in LOCK TABLE.
    pub fn sql(self) -> &'static str {
        Lock::ALL.into_iter().find(|(lock, ..)| *lock == self).map_or("", |(.., sql)| sql)
    }

    /// Whether SELECT waits for it.
    pub fn blocks_reads(self) -> bool {
        self == Lock::AccessExclusive
    }

    /// Whether INSERT, UPDATE and DELETE wait for it.
    pub fn blocks_writes(self) -> bool {
        self >= Lock::Share
    }

    /// Whom it keeps out.
    pub fn effect(self) -> &'static str {
        match (self.blocks_reads(), self.blocks_writes()) {
            (true, _) => "neither reads nor writes pass",
            (false, true) => "writes do not pass, reads do",
            (false, false) => "reads and writes pass",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn modes_are_known_by_both_names() {
        for (lock, name, sql) in Lock::ALL {
            assert_eq!((Lock::parse(name), lock.sql()), (Some(lock), sql));
        }
        assert_eq!(Lock::parse("SIReadLock"), None);
        assert!(Lock::ALL.is_sorted());
        assert!(!Lock::ShareUpdateExclusive.blocks_writes() && Lock::Share.blocks_writes());
    }
}
