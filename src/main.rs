//! The program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pgwraith::cli::{self, args::Arguments};
use pgwraith::say;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = pgwraith::failpoint::setup();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            // Help and version are no errors; everything else is a wrong command line.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    cli::log::start(&arguments);
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cli::run(arguments)),
        Err(e) => {
            say::err(format!("pgwraith: the asynchronous runtime does not start: {e}."));
            ExitCode::from(1)
        }
    }
}
