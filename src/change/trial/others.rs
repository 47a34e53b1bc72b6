//! Which other tables an ALTER TABLE locks.

use std::collections::HashMap;

use super::lock::Lock;
use super::observe::{Ground, Moment, Observer};
use super::observed::Other;
use crate::catalog;
use crate::error::Result;

impl Observer<'_> {
    /// What the change locks besides, as far as writers notice.
    pub(super) async fn others(
        &self,
        on: &Ground<'_>,
        before: &Moment,
        after: &Moment,
    ) -> Result<Vec<Other>> {
        let mut out: Vec<Other> = Vec::new();
        for (oid, (name, modes)) in &after.locks {
            let held = before.locks.get(oid).map_or(&[][..], |(_, held)| held);
            let new = modes.iter().filter(|lock| !held.contains(lock)).max();
            if let Some(&lock) = new.filter(|lock| lock.blocks_writes()) {
                out.push(Other { table: name.to_string(), oid: *oid, lock, scanned: false });
            }
        }
        // A stand-in was made in this transaction too: what is asked for on it is told by the foreign keys.
        for (oid, (name, scans)) in &after.stand_ins {
            let Some(real) = on.stand_ins.original(name) else { continue };
            let theirs = |now: &HashMap<u32, u32>, then: &HashMap<u32, u32>| {
                now.iter().any(|(key, end)| end == oid && !then.contains_key(key))
            };
            let dropped = theirs(&before.foreign_keys, &after.foreign_keys);
            let added = theirs(&after.foreign_keys, &before.foreign_keys);
            let scanned = before.stand_ins.get(oid).is_some_and(|(_, was)| scans > was);
            let lock = match (dropped, added) {
                (true, _) => Lock::AccessExclusive,
                (_, true) => Lock::ShareRowExclusive,
                _ if scanned => Lock::RowShare,
                _ => continue,
            };
            out.push(Other { table: real.qualified().to_string(), oid: real.oid, lock, scanned });
            // A key is each partition's too, which a stand-in has none of.
            if real.kind == 'p' && lock.blocks_writes() {
                let tree = catalog::tree(self.session, real.oid).await?;
                for oid in tree.into_iter().filter(|oid| *oid != real.oid) {
                    let Some(name) = catalog::name_of(self.session, oid).await? else { continue };
                    out.push(Other { table: name.to_string(), oid, lock, scanned: false });
                }
            }
        }
        out.sort_by(|a, b| a.table.cmp(&b.table));
        Ok(out)
    }
}
