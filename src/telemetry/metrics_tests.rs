//! The format, checked by a parser, and the list of metrics in the documents.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::*;
use crate::telemetry::{Pressure, Sample, Slot, Speed, Standby, Waits};

/// A table whose name needs care everywhere.
const TABLE: &str = "public.\"a \\ \"\"b\"\"\n{,}=\"";

/// A run of which everything is known.
fn everything() -> Facts {
    let mut facts = Facts::new(TABLE);
    let speed = Speed {
        workers: 3,
        duty: 0.25,
        held: Held::HeldBack,
        reason: "held back by standby \"eu\"".into(),
        pressures: vec![
            Pressure { signal: "standby \"eu\"\\".into(), share: Some(0.7) },
            Pressure { signal: "throttle-query".into(), share: None },
        ],
        standbys: vec![Standby {
            name: "\"eu\"\\".into(),
            lag: Duration::from_millis(1500),
            bytes: 77,
        }],
        paused: false,
        postponed: false,
    };
    let samples = [
        Sample::Rows(1000),
        Sample::Phase("prepare"),
        Sample::Phase("catch up"),
        Sample::CopiedBefore(100),
        Sample::Copied(50, 7),
        Sample::Compared(20),
        Sample::Differ(2),
        Sample::Dirty(5, 6),
        Sample::Took(Timed::Chunk, Duration::from_millis(300)),
        Sample::Took(Timed::Chunk, Duration::from_secs(1000)),
        Sample::Took(Timed::Stall, Duration::from_micros(7)),
        Sample::Speed(Box::new(speed)),
        Sample::Slot(Slot { name: "s".into(), retained: 4096, safe: Some(9), lost: false }),
        Sample::Watched(Some(Waits { ours: 1, others: 2, long: vec!["x".into()] })),
    ];
    samples.into_iter().for_each(|sample| facts.take(sample));
    facts
}

/// One metric with its samples, as a scraper reads it.
#[derive(Debug)]
struct Family {
    kind: String,
    help: String,
    /// By name and labels.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads the text format 0.0.4 and is pedantic about it.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'), "the last line must end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            current = name.to_owned();
            let family = Family { kind: String::new(), help: help.into(), samples: vec![] };
            assert!(families.insert(name.into(), family).is_none(), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, current, "TYPE follows HELP");
            families.get_mut(name).expect(line).kind = kind.into();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).expect(line);
            let suffix = sample.0.strip_prefix(&current).expect(line);
            let allowed: &[&str] = match family.kind.as_str() {
                "counter" | "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                kind => panic!("{kind}: {line}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            family.samples.push(sample);
        }
    }
    families
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.split_at(1) {
                (",", more) => inside = more,
                ("}", more) => break rest = more,
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    (name.to_owned(), labels, value.parse().expect(line))
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('"' | '\\'))) => c,
                other => panic!("escaped {other:?}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}");
}

#[test]
fn what_is_exposed_is_well_formed() {
    let text = render(everything());
    let families = parse(&text);
    let mut seen = HashSet::new();
    for (name, family) in &families {
        assert!(name.starts_with("pgwraith_") && family.help.len() > 5, "{name}: {family:?}");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        assert!(!family.samples.is_empty(), "{name}");
        for (sample, labels, value) in &family.samples {
            assert_eq!(labels["table"], TABLE, "{name}");
            assert!(seen.insert((sample.clone(), labels.clone())), "twice: {sample} {labels:?}");
            assert!(value.is_finite());
        }
    }
    let value = |name: &str| families[name].samples[0].2;
    assert_eq!(value("pgwraith_rows_copied_total"), 150.0);
    assert_eq!(value("pgwraith_chunk_position"), 7.0);
    assert_eq!(value("pgwraith_mismatches_total"), 2.0);
    assert_eq!(value("pgwraith_slot_retained_bytes"), 4096.0);
    assert_eq!(value("pgwraith_healthy"), 0.0);
    let lag = &families["pgwraith_replication_lag_seconds"].samples[0];
    assert_eq!((lag.1["standby"].as_str(), lag.2), ("\"eu\"\\", 1.5));
    let now: Vec<_> = families["pgwraith_phase"].samples.iter().filter(|s| s.2 == 1.0).collect();
    assert_eq!(now.len(), 1);
    assert_eq!(now[0].1["phase"], "catch_up");
}

#[test]
fn buckets_add_up() {
    let families = parse(&render(everything()));
    let chunks = &families["pgwraith_chunk_duration_seconds"].samples;
    let buckets: Vec<_> = chunks.iter().filter(|s| s.0.ends_with("_bucket")).collect();
    let bounds: Vec<f64> = buckets.iter().map(|b| b.1["le"].parse().unwrap()).collect();
    assert!(bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY), "{bounds:?}");
    let counts: Vec<f64> = buckets.iter().map(|b| b.2).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&2.0), "{counts:?}");
    assert_eq!(buckets.iter().find(|b| b.1["le"] == "0.5").unwrap().2, 1.0);
    let of = |suffix: &str| chunks.iter().find(|s| s.0.ends_with(suffix)).unwrap().2;
    assert_eq!((of("_count"), of("_sum")), (2.0, 1000.3));
}

/// What is not known yet is left out, rather than told to be zero.
#[test]
fn what_is_not_known_is_not_there() {
    let families = parse(&render(Facts::new("t")));
    assert!(families.contains_key("pgwraith_rows_copied_total"));
    for unknown in ["pgwraith_slot_retained_bytes", "pgwraith_lock_waits", "pgwraith_workers"] {
        assert!(!families.contains_key(unknown), "{unknown}");
    }
}

/// Every metric is in docs/metrics.md with its kind and its labels, and nothing else is.
#[test]
fn the_documents_list_what_is_exposed() {
    let documents = include_str!("../../docs/metrics.md");
    let rows = documents.lines().filter(|line| line.starts_with("| `pgwraith_"));
    let listed: BTreeMap<String, (String, Vec<String>)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "{row}");
            assert!(cells[4].len() > 10, "it has no meaning: {row}");
            let words =
                |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let name: Vec<String> = words(cells[1]);
            (name[0].clone(), (cells[2].to_owned(), words(cells[3])))
        })
        .collect();
    let families = parse(&render(everything()));
    let exposed: BTreeMap<String, (String, Vec<String>)> = families
        .into_iter()
        .map(|(name, family)| {
            let labels =
                family.samples[0].1.keys().filter(|l| !["table", "le"].contains(&l.as_str()));
            (name, (family.kind, labels.cloned().collect()))
        })
        .collect();
    assert_eq!(listed, exposed);
}
