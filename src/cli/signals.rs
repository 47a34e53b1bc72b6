//! Ctrl-C and SIGTERM: the first stops in good order, the second leaves at once.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Kind, Result};
use crate::hooks::Hooks;
use crate::migration::Supervisor;
use crate::pg::shell_word;
use crate::say;

/// What is to be said of a run that is left at once.
pub(super) fn left_behind(table: &str) -> String {
    let table = shell_word(table);
    format!("`pgwraith resume {table}` goes on, `pgwraith abort {table}` undoes it")
}

/// Stops `supervisor` at the first signal; ends the process at the second, which is as safe as a
/// crash, and says what is `left`.
pub(super) fn watch(supervisor: &Supervisor, left: &str, hooks: &Hooks) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (supervisor, left, hooks) = (supervisor.clone(), left.to_owned(), hooks.clone());
    tokio::spawn(async move {
        for stopped in [false, true] {
            let name = tokio::select! {
                _ = interrupt.recv() => "Ctrl-C",
                _ = terminate.recv() => "SIGTERM",
            };
            if stopped {
                say::err(format!("pgwraith: leaving at once; {left}."));
                hooks.kill();
                std::process::exit(i32::from(Kind::Stopped.exit_code()));
            }
            supervisor.stop(name);
        }
    });
    Ok(())
}
