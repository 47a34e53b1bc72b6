//! Running the program itself, with a time limit that kills.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

const LIMIT: Duration = Duration::from_secs(120);

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

/// Runs the program to its end.
pub async fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    run_within(LIMIT, args).await
}

/// Runs the program to its end; kills it and panics, with what it said, when it takes longer than `limit`.
pub async fn run_within(
    limit: Duration,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Output {
    let mut command = tokio::process::Command::from(pgwraith());
    command.args(by_copy(args)).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let mut child = command.spawn().unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let said = tokio::spawn(async { tokio::join!(all_of(out), all_of(err)) });
    let ended = tokio::time::timeout(limit, child.wait()).await;
    if ended.is_err() {
        child.kill().await.unwrap();
    }
    // Whoever inherited them may hold them open.
    let said = tokio::time::timeout(Duration::from_secs(5), said).await;
    let (stdout, stderr) = said.map_or_else(|_| Default::default(), |said| said.unwrap());
    let Ok(status) = ended else {
        panic!("{shown} ran longer than {limit:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    };
    let status = status.unwrap();
    Output {
        code: status.code(),
        signal: status.signal(),
        json: stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()),
        stdout,
        stderr,
    }
}

async fn all_of(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
