//! What is said to whoever listens. That nobody does, or that it cannot be written, changes nothing of
//! what was done: `print!` and its like panic on a closed pipe and on a full disk.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

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

/// A line on standard error.
pub fn err(text: impl Display) {
    // There is nowhere left to complain.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
