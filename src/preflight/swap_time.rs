//! What the swap would do for each partition, under its lock. Renames are few, however many partitions there are; keys
//! and triggers are on each.

use std::time::Duration;

use crate::catalog::{Carried, ForeignKey, Table};
use crate::change::Plan;

/// What one of them takes for one partition: a key from the table bound NOT VALID to each partition by a statement of its own, a
/// key to the table, either dropped, a trigger FOR EACH ROW. Measured with PostgreSQL 15.18 on two cores that others
/// used, empty tables under ACCESS EXCLUSIVE, rolled back; medians of five over 200, 400 and 800 partitions: 225, 320
/// and 363 µs; 281, 488 and 666; 61 to 100; 46 to 58. (To lock one takes 2 µs.) These are the greatest, rounded up.
const BIND_FROM: Duration = Duration::from_micros(400);
const BIND_TO: Duration = Duration::from_micros(700);
const UNBIND: Duration = Duration::from_micros(100);
const TRIGGER: Duration = Duration::from_micros(60);

/// Says so where partitions and what hangs on each may take a good part of the time that the lock may be held.
pub fn long_swap(source: &Table, plan: &Plan, limit: Duration) -> Option<String> {
    let partitions = plan.partitioning.as_ref().map_or(0, |p| p.partitions.count());
    let work = Work::of(source, plan, partitions);
    let time = work.time();
    if time < limit / 2 {
        return None;
    }
    let keys = plan.target.foreign_keys.len();
    let (time, limit) = (time.as_millis(), limit.as_millis());
    let (old, name) = (source.parts.len(), source.qualified());
    Some(format!(
        "the swap of {name} has {keys} foreign keys to take off {old} partitions and to put on {partitions}, and triggers likewise: \
         about {time} ms under its lock, by what they take on an idle server, and --max-lock-hold is {limit} ms, after \
         which an attempt is given up. Give it more (--max-lock-hold {}ms); or drop some keys before, and add them after the \
         swap; or let a partition span more",
        (time * 2).next_multiple_of(100)
    ))
}

/// How many of what.
struct Work {
    bind_from: usize,
    bind_to: usize,
    unbind: usize,
    triggers: usize,
}

impl Work {
    fn of(source: &Table, plan: &Plan, partitions: usize) -> Work {
        let count = |keys: &[ForeignKey], is: &dyn Fn(&ForeignKey) -> bool| {
            keys.iter().filter(|key| is(key)).count()
        };
        let name = plan.target.qualified();
        let keys = &plan.target.foreign_keys;
        let old = source.parts.len();
        let by_row = |thing: &&Carried| {
            thing.kind == "trigger" && thing.bind.iter().any(|sql| sql.contains(" FOR EACH ROW "))
        };
        let triggers = plan.carried.iter().filter(by_row).count();
        // The old table gets one for writes by its partitions' names.
        let own = usize::from(source.is_partitioned());
        Work {
            bind_from: partitions * count(keys, &|key| key.from.qualified() == name),
            bind_to: partitions * count(keys, &|key| key.to.qualified() == name),
            unbind: old * source.foreign_keys.len(),
            triggers: partitions * triggers + old * (triggers + own),
        }
    }

    fn time(&self) -> Duration {
        let of = |each: Duration, times: usize| each * u32::try_from(times).unwrap_or(u32::MAX);
        of(BIND_FROM, self.bind_from)
            + of(BIND_TO, self.bind_to)
            + of(UNBIND, self.unbind)
            + of(TRIGGER, self.triggers)
    }
}
