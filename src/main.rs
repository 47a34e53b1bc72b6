//! The program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pgwraith::cli::{self, args::Arguments};
use pgwraith::say;
use tracing_subscriber::EnvFilter;

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
    let filter = EnvFilter::try_new(&arguments.log).unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cli::run(arguments)),
        Err(e) => {
            say::err(format!("pgwraith: the asynchronous runtime does not start: {e}."));
            ExitCode::from(1)
        }
    }
}
