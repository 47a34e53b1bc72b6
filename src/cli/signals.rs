//! Ctrl-C and SIGTERM: the first stops in good order, the second leaves at once.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Kind, Result};
use crate::hooks::Hooks;
use crate::migration::Supervisor;
use crate::say;

/// Stops `supervisor` at the first signal; ends the process at the second, which is as safe as a
/// crash.
pub(super) fn watch(supervisor: &Supervisor, table: &str, hooks: &Hooks) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (supervisor, table) = (supervisor.clone(), crate::pg::shell_word(table));
    let hooks = hooks.clone();
    tokio::spawn(async move {
        for stopped in [false, true] {
            let name = tokio::select! {
                _ = interrupt.recv() => "Ctrl-C",
                _ = terminate.recv() => "SIGTERM",
            };
            if stopped {
                say::err(format!(
                    "pgwraith: leaving at once; `pgwraith resume {table}` goes on, `pgwraith abort {table}` undoes it."
                ));
                hooks.kill();
                std::process::exit(i32::from(Kind::Stopped.exit_code()));
            }
            supervisor.stop(name);
        }
    });
    Ok(())
}
