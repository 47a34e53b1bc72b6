//! How many sessions of others are at work at a time, on average, against how many there were while nobody of ours
//! worked. By Little's law that is how many transactions begin a second, times how long each is at work: where as many
//! begin as before, it grows as the application's own latency does. The probe does not see that: whoever sleeps most
//! of the time gets a processor at once, and reads in no time on a server where those that always have something to do
//! have to take turns with us (measured: the application was a second late, and the probe's reads took 0.8 ms).
//!
//! Where we took so much that the application has a queue before it, that is still there when we rest: what is seen
//! then is our doing as well, and taken for calm it would make a server that we choke the usual one, for good. So a
//! rest counts as calm only once there are no more at work than when it was calm before, or it has lasted so long
//! that no queue of ours is left; whoever asks for a rest prolongs it meanwhile ([`AverageActive::drains`]).

use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use super::Felt;
use super::lately::Lately;
use super::probe::SETTLED;
use crate::error::{Error, Result};
use crate::pg::Session;
use crate::throttle::controller::Reading;
use crate::throttle::limits::Limits;

/// How often they are counted. Where that takes long, by many sessions or the way to the server, less often.
const EVERY: Duration = Duration::from_millis(20);
const SHARE: u32 = 15;
const SELDOM: Duration = Duration::from_millis(200);
/// Where they could not be counted for so long, the server is not well.
const LOST: Duration = Duration::from_secs(2);
/// What is told is of so long.
const WINDOW: Duration = Duration::from_secs(2);
/// What there was without us is of so long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Whether there is a queue is seen by so many counts, within so long.
const GLANCE: usize = 10;
const GLANCE_SPAN: Duration = Duration::from_millis(1500);
/// No queue of ours is left after so long.
const DRAINED: Duration = Duration::from_secs(3);
/// Where they made way in vain, ours do not again before so long: what has not gone by then has come to stay.
const IN_VAIN: Duration = Duration::from_secs(10);
/// Ours rest a moment later than they are asked to.
const LATE: Duration = Duration::from_millis(700);
const FEWEST: usize = 5;
/// So many more than when calm, or such a share of them, may be chance.
const CHANCE: f64 = 0.6;
const CHANCE_SHARE: f64 = 0.3;
/// And so many more are never too many: half of next to nothing is nothing.
const LEAST_MORE: f64 = 1.0;
/// Nor are fewer than so many: one that takes long for itself is nobody's fault.
const LEAST_MOST: f64 = 2.5;
/// From so many times as many on there is a queue.
const LEAST_FACTOR: f64 = 1.5;
/// There are no more at work than there are clients, however long their queues: what is over the limit counts so many
/// times.
const OVER: f64 = 2.0;

/// The next transaction that writes; and those at work. Who has been at work for longer is no client that waits for an
/// answer. Null where the role may not see them.
const COUNT: &str = "
  SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8,
    CASE WHEN pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_catalog.count(*) FILTER (
    WHERE a.backend_type = 'client backend' AND a.state IN ('active', 'idle in transaction')
      AND a.application_name NOT LIKE 'pgwraith/%'
      AND COALESCE(a.xact_start, a.query_start) > pg_catalog.clock_timestamp() - interval '10 seconds') END
  FROM pg_catalog.pg_stat_get_activity(NULL) a";

/// Counts those at work.
pub struct Counter {
    /// Used for this alone.
    session: Session,
    count: Statement,
}

impl Counter {
    pub async fn prepare(session: Session) -> Result<Self> {
        let count = session.prepare(COUNT).await?;
        Ok(Counter { session, count })
    }

    /// Counts them once, and waits until it is time for the next. Fails where the session is lost.
    pub async fn count(&mut self, felt: &Felt) -> Result<()> {
        let began = Instant::now();
        let rows = self.session.run(&self.count, &[]).await?;
        let took = began.elapsed();
        let again = (took * SHARE).clamp(EVERY, SELDOM);
        let row = rows.first().ok_or_else(|| Error::failed("the server counts no sessions"))?;
        felt.looked(row.get::<_, i64>(0).max(0) as u64);
        if let Some(count) = row.get::<_, Option<i64>>(1) {
            felt.counted(count as f64, took + again);
        }
        tokio::time::sleep(again).await;
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct AverageActive {
    /// While the copy worked, and while a queue was left of that.
    busy: Lately<f64>,
    /// While nobody of ours worked, and no queue was left.
    calm: Lately<f64>,
    /// The last ones, whoever worked.
    last: Lately<f64>,
    /// In this rest of ours so far.
    resting: Lately<f64>,
    usual: Option<f64>,
    drains: bool,
    /// Since when ours make way.
    way: Option<Instant>,
    /// They do not before.
    stays: Option<Instant>,
}

impl AverageActive {
    /// So many were at work, when nobody of ours had worked for so long; None while somebody does. Returns whether they
    /// should make way.
    pub(super) fn counted(&mut self, count: f64, idle: Option<Duration>, now: Instant) -> bool {
        self.busy.forget(now, WINDOW);
        self.calm.forget(now, REMEMBERED);
        let rested = idle.filter(|idle| *idle >= SETTLED);
        match rested {
            None => self.resting.clear(),
            Some(_) => self.resting.note(now, count),
        }
        self.resting.forget(now, GLANCE_SPAN);
        let lately = glance(&self.resting, now).or_else(|| mean(self.busy.within(now, WINDOW)));
        let more = lately.zip(self.usual).is_some_and(|(lately, usual)| is_more(lately, usual));
        self.drains = more && rested.is_none_or(|idle| idle < DRAINED);
        let calm = rested.is_some() && !self.drains;
        if calm { &mut self.calm } else { &mut self.busy }.note(now, count);
        if calm {
            // What comes over the server for a moment shows in the moment alone.
            let lately = mean(self.calm.within(now, DRAINED));
            let all = mean(self.calm.within(now, REMEMBERED));
            self.usual = all.into_iter().chain(lately).reduce(f64::max).or(self.usual);
        }
        self.make_way(count, now)
    }

    /// A queue that came about in a moment, by a stall of the disk or since a processor is used up, is gone in a moment
    /// where nobody adds to it; with us at work it takes many times as long, in which everybody waits who comes.
    fn make_way(&mut self, count: f64, now: Instant) -> bool {
        self.last.forget(now, GLANCE_SPAN);
        self.last.note(now, count);
        let Some((glance, usual)) = glance(&self.last, now).zip(self.usual) else {
            return false;
        };
        match self.way {
            Some(_) if !is_more(glance, usual) => self.way = None,
            Some(began) if now.duration_since(began) >= DRAINED + LATE => {
                self.way = None;
                self.stays = Some(now + IN_VAIN);
            }
            None if glance >= most(usual, LEAST_FACTOR)
                && self.stays.is_none_or(|at| now >= at) =>
            {
                self.way = Some(now);
            }
            _ => {}
        }
        self.way.is_some()
    }

    /// What we did is still felt, also while we rest.
    pub(super) fn drains(&self) -> bool {
        self.drains
    }

    /// Nothing where it is not known how many there are in calm.
    pub(super) fn reading(&self, anybody: bool, limits: &Limits, now: Instant) -> Option<Reading> {
        let calm = self.usual?;
        let reading = |pressure, text: String| {
            Some(Reading::of_application("average-active", anybody, pressure, || text))
        };
        let silent = self.last.last().map_or(Duration::ZERO, |at| now.duration_since(at));
        if silent >= LOST {
            let text = format!("nobody could be counted for {:.0} s", silent.as_secs_f64());
            return reading(None, text);
        }
        let active = mean(self.busy.within(now, WINDOW)).unwrap_or(calm);
        let limit = most(calm, limits.active_factor);
        let share = (active - calm).max(0.0) / (limit - calm);
        let share = share + (share - 1.0).max(0.0) * (OVER - 1.0);
        let text = format!(
            "{active:.1} of {limit:.1} sessions are at work at a time, {calm:.1} when calm"
        );
        reading(Some(share), text)
    }
}

/// More than by chance.
fn is_more(active: f64, usual: f64) -> bool {
    active > usual + CHANCE.max(usual * CHANCE_SHARE)
}

/// So many are not too many.
fn most(usual: f64, factor: f64) -> f64 {
    (usual * factor).max(usual + LEAST_MORE).max(LEAST_MOST)
}

/// The mean of the last few.
fn glance(counts: &Lately<f64>, now: Instant) -> Option<f64> {
    mean(counts.within(now, GLANCE_SPAN).take(GLANCE))
}

fn mean<'a>(counts: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let (n, sum) = counts.fold((0usize, 0.0), |(n, sum), count| (n + 1, sum + count));
    (n >= FEWEST).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::controller::FeltBy;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// An application that is counted again and again.
    struct Counted {
        active: AverageActive,
        start: Instant,
        ms: u64,
        /// How long ours have rested, where they do.
        rest: Option<u64>,
        /// Milliseconds from one count to the next.
        each: u64,
    }

    impl Counted {
        fn new() -> Self {
            let (active, start) = (AverageActive::default(), Instant::now());
            let mut counted = Counted { active, start, ms: 0, rest: Some(1_000), each: 20 };
            counted.go_on(1_000, |_| 2.0);
            counted
        }

        fn now(&self) -> Instant {
            self.start + MS(self.ms)
        }

        /// For so many milliseconds; how many of the counts said that ours should make way.
        fn go_on(&mut self, ms: u64, count: impl Fn(u64) -> f64) -> usize {
            let from = self.ms;
            let mut ways = 0;
            while self.ms < from + ms {
                let idle = self.rest.map(MS);
                ways += usize::from(self.active.counted(count(self.ms - from), idle, self.now()));
                self.ms += self.each;
                self.rest = self.rest.map(|rest| rest + self.each);
            }
            ways
        }

        fn pressure(&self) -> f64 {
            let limits = Limits { active_factor: 1.5, ..Limits::default() };
            self.active.reading(true, &limits, self.now()).unwrap().pressure.unwrap()
        }
    }

    #[test]
    fn it_is_held_against_calm_times() {
        let mut counted = Counted::new();
        assert_eq!(counted.pressure(), 0.0);
        counted.rest = None;
        counted.go_on(3_000, |_| 2.5);
        assert!((0.49..0.51).contains(&counted.pressure()), "{}", counted.pressure());
        counted.go_on(3_000, |_| 4.0);
        assert!((2.99..3.01).contains(&counted.pressure()), "what is over counts twice");
        let nobody = counted.active.reading(false, &Limits::default(), counted.now()).unwrap();
        assert_eq!((nobody.pressure, nobody.felt_by), (Some(0.0), FeltBy::Others));
    }

    /// Without that a server that is choked by us would be the usual one as soon as we rest.
    #[test]
    fn a_queue_that_is_left_in_a_rest_is_not_calm() {
        let mut counted = Counted::new();
        counted.rest = None;
        counted.go_on(3_000, |_| 5.0);
        counted.rest = Some(0);
        counted.go_on(1_000, |_| 5.0);
        assert!(counted.active.drains() && counted.pressure() > 4.0, "{}", counted.pressure());
        counted.go_on(1_000, |_| 2.0);
        assert!(!counted.active.drains());
        counted.rest = None;
        counted.go_on(3_000, |_| 3.0);
        assert!((0.99..1.01).contains(&counted.pressure()), "{}", counted.pressure());
    }

    #[test]
    fn what_stays_though_we_rest_is_not_ours() {
        let mut counted = Counted::new();
        counted.rest = Some(0);
        counted.go_on(6_000, |_| 5.0);
        counted.rest = None;
        counted.go_on(3_000, |_| 5.0);
        assert!(counted.pressure() < 0.1, "{}", counted.pressure());
    }

    #[test]
    fn ours_make_way_for_a_queue_until_it_is_gone() {
        let mut counted = Counted::new();
        counted.rest = None;
        assert_eq!(counted.go_on(1_000, |ms| if ms % 100 == 0 { 4.0 } else { 2.0 }), 0, "chance");
        let ways = counted.go_on(1_000, |ms| if ms < 300 { 5.0 } else { 2.0 });
        assert!((10..30).contains(&ways), "{ways} of 50");
        let again = counted.go_on(200, |_| 5.0);
        assert!(again > 3, "at once: {again} of 10");
    }

    /// Over a long way, or where many are to be counted.
    #[test]
    fn where_they_are_counted_seldom_it_is_the_same() {
        let mut counted = Counted::new();
        (counted.rest, counted.each) = (None, 200);
        assert!(counted.go_on(3_000, |_| 5.0) > 3, "they make way");
        counted.rest = Some(0);
        counted.go_on(1_600, |_| 5.0);
        assert!(counted.active.drains());
        counted.go_on(1_600, |_| 2.0);
        assert!(!counted.active.drains());
    }

    #[test]
    fn whoever_cannot_be_counted_is_not_calm() {
        let counted = Counted::new();
        let later = counted.now() + LOST;
        let lost = counted.active.reading(true, &Limits::default(), later).unwrap();
        assert_eq!(lost.pressure, None, "{lost:?}");
    }

    #[test]
    fn where_it_is_in_vain_ours_make_way_no_more() {
        let mut counted = Counted::new();
        counted.rest = None;
        counted.go_on(4_000, |_| 5.0);
        assert_eq!(counted.go_on(5_000, |_| 5.0), 0);
    }
}
