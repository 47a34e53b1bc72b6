//! The progress line.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Collected, Show};
use crate::say;

/// How often a plain line is written where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Draws progress on standard error.
pub(super) struct Line {
    table: String,
    show: Show,
    bar: Option<ProgressBar>,
    last_plain: Option<(Instant, &'static str)>,
    rate: Rate,
}

/// Rows per second over the recent past.
#[derive(Default)]
struct Rate {
    at: Option<(Instant, u64)>,
    per_second: f64,
}

impl Line {
    pub(super) fn new(table: &str, show: Show) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (show == Show::Progress && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Line { table: table.to_owned(), show, bar, last_plain: None, rate: Rate::default() }
    }

    pub(super) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say::err(text)),
            None => say::err(text),
        }
    }

    pub(super) fn draw(&mut self, state: &Collected) {
        let Some((phase, since)) = state.current else { return };
        let done = if phase == "verify" {
            state.rows_compared
        } else {
            state.summary.rows_copied + state.rows_before
        };
        self.rate.update(done);
        let text = self.text(state, phase, since.elapsed(), done);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if self.show == Show::Progress {
            let due = self
                .last_plain
                .is_none_or(|(at, shown)| shown != phase || at.elapsed() >= PLAIN_EVERY);
            if due {
                say::err(text);
                self.last_plain = Some((Instant::now(), phase));
            }
        }
    }

    fn text(&self, state: &Collected, phase: &str, spent: Duration, done: u64) -> String {
        let mut text = format!("{}: {phase}, {} s", self.table, spent.as_secs());
        if matches!(phase, "copy" | "verify") {
            let of = match state.rows_expected {
                0 => String::new(),
                all => format!(" of about {}", thousands(all)),
            };
            let rate = thousands(self.rate.per_second as u64);
            text.push_str(&format!(", {} rows{of}, {rate} rows/s", thousands(done)));
        }
        let (backlog, synced) = state.dirty;
        if backlog + synced > 0 {
            let (backlog, synced) = (thousands(backlog), thousands(synced));
            text.push_str(&format!("; changed keys: {backlog} waiting, {synced} applied"));
        }
        text
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Rate {
    fn update(&mut self, done: u64) {
        let now = Instant::now();
        let Some((at, before)) = self.at else {
            self.at = Some((now, done));
            return;
        };
        let span = now.duration_since(at).as_secs_f64();
        if done < before || span >= 1.0 {
            self.per_second = done.saturating_sub(before) as f64 / span.max(1e-3);
            self.at = Some((now, done));
        }
    }
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

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1 000");
        assert_eq!(thousands(12_345_678), "12 345 678");
    }
}
