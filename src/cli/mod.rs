//! The command line: arguments as typed ([`args`]), as resolved, one file a command.

mod abort;
pub mod args;
mod cleanup;
mod demo;
mod dry_run;
pub mod log;
mod plan;
mod resolve;
mod run;
mod runbook;
mod set;
mod signals;
mod status;

use std::process::ExitCode;

use args::{Arguments, Command};

use crate::error::{Error, Result};
use crate::say;

/// Runs the command and says how it went; the exit code is the error's kind.
pub async fn run(arguments: Arguments) -> ExitCode {
    let done = match refuse_connection_string(&arguments.command) {
        Ok(()) => obey(arguments.command).await,
        Err(e) => Err(e),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let code = e.kind().exit_code();
            match say::format() {
                say::Format::Text => say::err(format!("pgwraith: {e}.")),
                say::Format::Json => {
                    let fields = [("exit_code", code.into())];
                    say::event("error", "failed", e, fields);
                }
            }
            ExitCode::from(code)
        }
    }
}

/// Where a table's name is wanted: whatever is said of it would show the password.
fn refuse_connection_string(command: &Command) -> Result<()> {
    let is_one = |table: &&str| table.contains("://") || table.contains("password=");
    command.table().filter(is_one).map_or(Ok(()), |_| {
        Err(Error::usage("a connection string stands where the table is named")
            .state("Nothing was touched")
            .next("Name the table, and give the connection string by -d"))
    })
}

async fn obey(command: Command) -> Result<()> {
    match command {
        Command::Run(command) => run::run(command).await,
        Command::Plan(command) => plan::plan(command).await,
        Command::DryRun(command) => dry_run::dry_run(command).await,
        Command::Resume(command) => run::resume(command).await,
        Command::Status(command) => status::status(command).await,
        Command::Set(command) => set::set(command).await,
        Command::Cutover(command) => set::cutover(command).await,
        Command::Abort(command) => abort::abort(command).await,
        Command::Cleanup(command) => cleanup::cleanup(command).await,
        Command::Demo(command) => demo::demo(command).await,
    }
}
