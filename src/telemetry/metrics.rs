//! The same for Prometheus, in its text format. docs/metrics.md says what each metric means; a test compares
//! the two.

use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Histogram};
use prometheus_client::registry::{Registry, Unit};

use super::facts::Facts;
use super::sample::{Held, Timed};

/// What tells a scraper the format.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// All phases, in order, and as labels.
const PHASES: [(&str, &str); 10] = [
    ("prepare", "prepare"),
    ("copy", "copy"),
    ("index", "index"),
    ("catch up", "catch_up"),
    ("verify", "verify"),
    ("cutover", "cutover"),
    ("validate", "validate"),
    ("alter", "alter"),
    ("fill", "fill"),
    ("vacuum", "vacuum"),
];

/// The facts as metrics.
pub(super) fn render(facts: Facts) -> String {
    let table = facts.table.clone();
    let labels = [("table".into(), table.into())].into_iter();
    let mut registry = Registry::with_prefix_and_labels("pgwraith", labels);
    registry.register_collector(Box::new(Told(facts)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Told(Facts);

/// One value, and the labels that it has besides the table.
type Value<'a> = (Vec<(&'a str, &'a str)>, f64);

impl Collector for Told {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let to = &mut to;
        self.run(to)?;
        self.rows(to)?;
        self.speed(to)?;
        self.server(to)?;
        Timed::ALL.iter().try_for_each(|what| self.times(to, *what))
    }
}

impl Told {
    fn run(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let facts = &self.0;
        let current = facts.phase.map(|(name, _)| name);
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        all(to, Gauge, "build_info", "The program that runs, always 1", &[(version, 1.0)])?;
        let phases =
            PHASES.map(|(name, label)| (vec![("phase", label)], is(current == Some(name))));
        all(to, Gauge, "phase", "1 for the phase that is under way, 0 for the others", &phases)?;
        let spent = PHASES.map(|(name, label)| (vec![("phase", label)], self.spent(name)));
        all(to, Gauge, "phase_seconds", "Time spent in each phase by this run", &spent)?;
        let healthy = is(facts.trouble(Instant::now()).is_none());
        one(to, Gauge, "healthy", "1 while the run is well, 0 where it is stuck", healthy)
    }

    fn spent(&self, phase: &str) -> f64 {
        let before = self.0.phases.iter().filter(|(name, _)| *name == phase);
        let now = self.0.phase.filter(|(name, _)| *name == phase);
        before.map(|(_, seconds)| seconds).sum::<f64>()
            + now.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64())
    }

    fn rows(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let facts = &self.0;
        let copied = facts.rows_before + facts.rows_copied;
        let synced = facts.keys_synced;
        one(
            to,
            Gauge,
            "rows_expected",
            "Rows of the table, estimated",
            facts.rows_expected as f64,
        )?;
        one(to, Counter, "rows_copied", "Rows copied, by runs before too", copied as f64)?;
        one(to, Counter, "rows_compared", "Rows compared and equal", facts.rows_compared as f64)?;
        one(to, Counter, "chunks_copied", "Ranges copied by this run", facts.chunks as f64)?;
        let position = facts.position as f64;
        one(to, Gauge, "chunk_position", "Number of the furthest range copied", position)?;
        one(to, Gauge, "dirty_keys", "Changed keys that wait", facts.keys_waiting as f64)?;
        one(to, Counter, "synced_keys", "Changed keys that were applied", synced as f64)?;
        let differed = "Rows that differed in verification and were repaired";
        one(to, Counter, "mismatches", differed, facts.mismatches as f64)
    }

    fn speed(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let Some(speed) = self.0.speed.as_deref() else { return Ok(()) };
        one(to, Gauge, "workers", "Workers that may work", speed.workers as f64)?;
        one(to, Gauge, "duty_ratio", "Share of the time that each may work", speed.duty)?;
        let held = Held::ALL.map(|held| (vec![("reason", held.as_str())], is(held == speed.held)));
        all(to, Gauge, "throttled", "1 for why it is as fast as it is, 0 for the others", &held)?;
        let measured = speed.pressures.iter().filter_map(|pressure| {
            Some((vec![("signal", pressure.signal.as_str())], pressure.share?))
        });
        let shares: Vec<Value> = measured.collect();
        all(to, Gauge, "pressure_ratio", "A signal as a share of its limit", &shares)?;
        let of = |number: &dyn Fn(usize) -> f64| -> Vec<Value> {
            let standbys = speed.standbys.iter().enumerate();
            standbys.map(|(n, s)| (vec![("standby", s.name.as_str())], number(n))).collect()
        };
        let lags = of(&|n| speed.standbys[n].lag.as_secs_f64());
        let told = "How long ago the log was written that a standby has not replayed";
        all(to, Gauge, "replication_lag_seconds", told, &lags)?;
        let bytes = of(&|n| speed.standbys[n].bytes as f64);
        all(to, Gauge, "replication_lag_bytes", "Log that a standby has not replayed", &bytes)
    }

    fn server(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        if let Some(slot) = &self.0.slot {
            let held = slot.retained as f64;
            one(to, Gauge, "slot_retained_bytes", "Log that our slot holds back", held)?;
            if let Some(safe) = slot.safe {
                let told = "Log that may be written before the server gives our slot up";
                one(to, Gauge, "slot_safe_bytes", told, safe as f64)?;
            }
        }
        let Some((_, waits)) = &self.0.waits else { return Ok(()) };
        let by = |who| vec![("by", who)];
        let counts = [(by("run"), waits.ours as f64), (by("others"), waits.others as f64)];
        let told = "Sessions that wait for a lock: the run's, and others that wait for the run's";
        all(to, Gauge, "lock_waits", told, &counts)
    }

    fn times(&self, to: &mut DescriptorEncoder, what: Timed) -> fmt::Result {
        let name = format!("{}_duration", what.as_str());
        let help = format!("How long each {} took", what.told());
        let buckets = &self.0.buckets[what as usize];
        to.encode_descriptor(&name, &help, Some(&Unit::Seconds), Histogram)?
            .encode_histogram::<NoLabelSet>(buckets.sum, buckets.count(), &buckets.all(), None)
    }
}

fn is(so: bool) -> f64 {
    f64::from(u8::from(so))
}

fn one(
    to: &mut DescriptorEncoder,
    kind: MetricType,
    name: &str,
    help: &str,
    value: f64,
) -> fmt::Result {
    all(to, kind, name, help, &[(vec![], value)])
}

/// One metric; none where it has no value.
fn all(
    to: &mut DescriptorEncoder,
    kind: MetricType,
    name: &str,
    help: &str,
    values: &[Value],
) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let mut metric = to.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        let mut one = metric.encode_family(labels)?;
        match kind {
            Counter => one.encode_counter::<NoLabelSet, _, f64>(value, None)?,
            _ => one.encode_gauge(value)?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
