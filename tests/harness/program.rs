//! The program itself, and what a run of it leaves.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the program left.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The last line of stdout, where it is JSON.
    pub json: Option<Value>,
}

impl Output {
    /// Itself, if the program ended with `code`; shows everything it said otherwise.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// The machine-readable result.
    #[track_caller]
    pub fn json(&self) -> &Value {
        self.json.as_ref().unwrap_or_else(|| panic!("the last line is no JSON: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}, signal {:?}", self.code, self.signal)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// The program, free of the caller's libpq environment; for tests that drive it themselves.
pub fn pgwraith() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgwraith"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") && name != "PGWRAITH_PG_BIN" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// An argument for these helpers: `run` may choose its way.
pub const ANY_WAY: &str = "--any-way";

/// The tests are of the copy, whatever PostgreSQL could do in place, unless they say [`ANY_WAY`].
pub fn by_copy(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let given = args.len();
    args.retain(|arg| arg != ANY_WAY);
    if args.len() == given && args.first().is_some_and(|command| command == "run") {
        args.push("--force-copy".into());
    }
    args
}
