//! What is said to whoever listens. That nobody does, or that it cannot be written, changes nothing of
//! what was done: `print!` and its like panic on a closed pipe and on a full disk.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use serde_json::{Map, Value};

/// How standard error looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// What standard error looks like from now on; only the first word counts.
pub fn set_format(format: Format) {
    let _ = FORMAT.set(format);
}

/// What standard error looks like.
pub fn format() -> Format {
    FORMAT.get().copied().unwrap_or(Format::Text)
}

/// A result, on standard output. Where it cannot be written, standard error says so; a reader that has had
/// enough is told nothing. Returns whether there is still one, for those who would go on for ever.
pub(crate) fn out(text: impl Display) -> bool {
    let mut stdout = std::io::stdout().lock();
    let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
    drop(stdout);
    match written {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => false,
        Err(e) => {
            err(format_args!("pgwraith: the result cannot be written to standard output: {e}."));
            true
        }
    }
}

/// The same, and the end of a line.
pub(crate) fn out_line(text: impl Display) -> bool {
    out(format_args!("{text}\n"))
}

/// A line on standard error about something that went wrong.
pub fn err(text: impl Display) {
    match format() {
        Format::Text => line(text),
        Format::Json => event("error", "error", text, []),
    }
}

/// A line on standard error, for people.
pub(crate) fn line(text: impl Display) {
    // There is nowhere left to complain.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// One fact on standard error, for programs.
pub(crate) fn event(
    level: &str,
    event: &str,
    message: impl Display,
    fields: impl IntoIterator<Item = (&'static str, Value)>,
) {
    let mut all = Map::new();
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    all.insert("time".into(), now.to_string().into());
    all.insert("level".into(), level.into());
    all.insert("event".into(), event.into());
    all.insert("message".into(), message.to_string().into());
    all.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    line(Value::Object(all));
}

/// As a person reads it: `37 MB`, `1.4 GB`.
pub(crate) fn bytes(n: i64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 10.0);
    format!("{value:.digits$} {}", units[unit])
}

/// `4 min 10 s`
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        for (n, text) in
            [(0.04, "0.0 s"), (9.96, "10 s"), (61.2, "1 min 1 s"), (90_000.0, "25 h 0 min")]
        {
            assert_eq!(time(n), text);
        }
    }

    #[test]
    fn numbers_are_for_people() {
        for (n, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (8192, "8.0 kB"),
            (38 << 20, "38 MB"),
            ((3 << 30) / 2, "1.5 GB"),
            (1536, "1.5 kB"),
            (40_000_000, "38 MB"),
            (3_000_000_000_000, "2.7 TB"),
            (i64::MAX, "8192 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }
}
