//! What the operator sees of a run while it goes on: a line that is redrawn on a terminal, plain lines
//! elsewhere, and objects for programs.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::Show;
use super::facts::Facts;
use super::sample::Ahead;
use crate::say::{self, Format};

/// How often a line is written where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Where rows say how far it is.
const WITH_BAR: &str = "{spinner} [{bar:24}] {wide_msg}";
const WITHOUT_BAR: &str = "{spinner} {wide_msg}";

/// Draws progress on standard error.
pub(super) struct Line {
    show: Show,
    format: Format,
    bar: Option<ProgressBar>,
    has_bar: bool,
    /// When the last plain line was written, and of which phase.
    last_plain: Option<(Instant, &'static str)>,
}

impl Line {
    pub(super) fn new(show: Show) -> Self {
        let format = say::format();
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let drawn = show == Show::Progress && terminal && format == Format::Text;
        let bar = drawn.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(WITHOUT_BAR));
            bar
        });
        Line { show, format, bar, has_bar: false, last_plain: None }
    }

    pub(super) fn note(&self, text: &str, facts: &Facts) {
        match (&self.bar, self.format) {
            (Some(bar), _) => bar.suspend(|| say::line(text)),
            (None, Format::Text) => say::line(text),
            (None, Format::Json) => say::event("info", "note", text, place(facts)),
        }
    }

    /// What comes next, and cannot be paused.
    pub(super) fn ahead(&self, ahead: &Ahead, facts: &Facts) {
        if self.format == Format::Text {
            return self.note(&ahead.to_string(), facts);
        }
        let numbers = [
            ("what", json!(ahead.what)),
            ("seconds", json!(ahead.took.map(|took| took.as_secs_f64()))),
            ("wal_bytes", json!(ahead.wal)),
            ("wal_bytes_at_most", json!(ahead.more)),
        ];
        say::event("info", "announced", ahead, place(facts).into_iter().chain(numbers));
    }

    /// A phase began.
    pub(super) fn enter(&self, facts: &Facts) {
        if let (Some((phase, _)), Format::Json) = (facts.phase, self.format) {
            say::event("info", "phase", format_args!("{phase} began"), place(facts));
        }
    }

    pub(super) fn draw(&mut self, facts: &Facts) {
        let Some((phase, _)) = facts.phase else { return };
        if let Some(bar) = &self.bar {
            draw_bar(bar, &mut self.has_bar, facts);
            return;
        }
        let due =
            self.last_plain.is_none_or(|(at, shown)| shown != phase || at.elapsed() >= PLAIN_EVERY);
        if self.show == Show::Quiet || !due {
            return;
        }
        self.last_plain = Some((Instant::now(), phase));
        match self.format {
            Format::Text => say::line(text(facts)),
            Format::Json => {
                let numbers = [("progress", facts.as_json(Instant::now()))];
                let fields = place(facts).into_iter().chain(numbers);
                say::event("info", "progress", text(facts), fields);
            }
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Of what an event is.
fn place(facts: &Facts) -> [(&'static str, Value); 2] {
    [("table", json!(facts.table)), ("phase", json!(facts.phase.map(|(name, _)| name)))]
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ")
}

fn draw_bar(bar: &ProgressBar, has_bar: &mut bool, facts: &Facts) {
    let percent = facts.percent();
    if percent.is_some() != *has_bar {
        *has_bar = percent.is_some();
        bar.set_style(style(if *has_bar { WITH_BAR } else { WITHOUT_BAR }));
    }
    if let Some(percent) = percent {
        bar.set_length(100);
        bar.set_position(percent as u64);
    }
    bar.set_message(text(facts));
    bar.tick();
}

/// How far it is, in a line.
fn text(facts: &Facts) -> String {
    let Some((phase, since)) = facts.phase else { return facts.table.clone() };
    let mut text = format!("{}: {phase}, {} s", facts.table, since.elapsed().as_secs());
    if let Some((done, all)) = facts.progress() {
        if let Some(percent) = facts.percent() {
            text.push_str(&format!(", {percent:.0} %"));
        }
        let of = match all {
            0 => String::new(),
            all => format!(" of about {}", thousands(all)),
        };
        let rate = thousands(facts.rate.per_second as u64);
        text.push_str(&format!(", {} rows{of}, {rate} rows/s", thousands(done)));
        if let Some(left) = facts.left() {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
            text.push_str(&format!(", ETA {left}"));
        }
    }
    let (waiting, synced) = (facts.keys_waiting, facts.keys_synced);
    if waiting + synced > 0 {
        let (waiting, synced) = (thousands(waiting), thousands(synced));
        text.push_str(&format!("; changed keys: {waiting} waiting, {synced} applied"));
    }
    // In the copy it is the throttle's business; here nothing is slowed down for it.
    if phase == "index"
        && let Some(last) = facts.furthest_behind()
    {
        let (name, lag) = (&last.name, last.lag.as_secs_f64());
        text.push_str(&format!("; standby {name} is {lag:.1} s behind"));
    }
    text
}

/// A number with its thousands set apart.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Held, Sample, Speed, Standby};

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1 000");
        assert_eq!(thousands(12_345_678), "12 345 678");
    }

    fn in_the_copy() -> Facts {
        let mut facts = Facts::new("orders");
        facts.take(Sample::Rows(100_000));
        facts.take(Sample::Phase("copy"));
        facts.take(Sample::Copied(25_000, 1));
        facts.rate.per_second = 500.0;
        facts
    }

    fn speed(held: Held) -> Speed {
        Speed {
            workers: 2,
            duty: 1.0,
            held,
            reason: String::new(),
            pressures: Vec::new(),
            standbys: Vec::new(),
            paused: false,
            postponed: false,
        }
    }

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long() {
        let mut facts = in_the_copy();
        facts.take(Sample::Dirty(3, 4));
        assert_eq!(
            text(&facts),
            "orders: copy, 0 s, 25 %, 25 000 rows of about 100 000, 500 rows/s, ETA 2m 30s; \
             changed keys: 3 waiting, 4 applied"
        );
        facts.take(Sample::Phase("index"));
        assert_eq!(text(&facts), "orders: index, 0 s; changed keys: 3 waiting, 4 applied");
        let standby = |name: &str, ms| Standby {
            name: name.to_owned(),
            lag: Duration::from_millis(ms),
            bytes: 0,
        };
        facts.take(Sample::Speed(Box::new(Speed {
            standbys: vec![standby("eu1", 20), standby("eu2", 4_140)],
            ..speed(Held::Free)
        })));
        assert!(text(&facts).ends_with(" applied; standby eu2 is 4.1 s behind"));
    }

    #[test]
    fn nobody_knows_the_end_of_what_rests() {
        let mut facts = in_the_copy();
        let mut held = |held| {
            facts.take(Sample::Speed(Box::new(speed(held))));
            text(&facts)
        };
        for rests in [Held::Paused, Held::Stopped, Held::Blind] {
            assert!(!held(rests).contains("ETA"), "{rests:?}");
        }
        assert!(held(Held::HeldBack).contains("ETA 2m 30s"));
    }

    #[test]
    fn what_comes_next_is_told_with_time_and_size() {
        let took = Some(Duration::from_secs(7200));
        let mut ahead = Ahead { what: "index a".into(), took, wal: 96 << 30, more: None };
        assert_eq!(
            ahead.to_string(),
            "next: index a, about 2 h 0 min, about 96 GB of WAL; it cannot be paused"
        );
        (ahead.took, ahead.more) = (None, Some(1 << 40));
        assert_eq!(
            ahead.to_string(),
            "next: index a, for a time that is not known, about 96 GB of WAL, or up to 1.0 TB where hint bits \
             are logged; it cannot be paused"
        );
    }
}
