//! Running the program, beside the test or to its end, with a time limit that kills.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::program::by_copy;
use super::{Output, pgwraith};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs the program to its end.
pub async fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    run_within(LIMIT, args).await
}

/// Runs the program to its end; kills it and panics, with what it said, when it takes longer than `limit`.
pub async fn run_within(
    limit: Duration,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Output {
    Background::start(args).finish(limit).await
}

/// A run of the program. Dropping it kills it.
pub struct Background {
    child: Child,
    /// Its command line.
    shown: String,
    stdout: JoinHandle<String>,
    stderr: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Background {
    /// Starts the program.
    pub fn start(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Background {
        Background::start_with(&[], args)
    }

    /// Starts the program with more in its environment.
    pub fn start_with(
        environment: &[(&str, &str)],
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Background {
        let mut command = Command::from(pgwraith());
        command.envs(environment.iter().copied());
        command
            .args(by_copy(args))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let shown = format!("{:?}", command.as_std());
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let stdout = tokio::spawn(async move {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).await.ok();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let reader = tokio::spawn(collect(lines, Arc::clone(&stderr)));
        Background { child, shown, stdout, stderr, reader }
    }

    /// How often its threads have gone to sleep until something woke them (proc(5)).
    pub fn sleeps(&self) -> u64 {
        let threads = format!("/proc/{}/task", self.child.id().expect("the program runs"));
        let of = |thread: std::fs::DirEntry| {
            // A thread may have ended since it was listed.
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        std::fs::read_dir(threads).unwrap().map(|thread| of(thread.unwrap())).sum()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        let pid = self.child.id().expect("the program runs") as i32;
        // SAFETY: kill takes plain numbers; the child has not been waited for, so the pid is its.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// The same, unless it has ended already.
    pub fn signal_if_running(&self, signal: i32) {
        if let Some(pid) = self.child.id() {
            // SAFETY: as above; a child that has ended and was not waited for takes no harm.
            unsafe { libc::kill(pid as i32, signal) };
        }
    }

    /// What it said on stderr up to now.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has said `text` on stderr; panics if it ends before that.
    pub async fn wait_for_saying(&mut self, text: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !self.said().contains(text) {
            self.expect_running();
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "it never said {text:?}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Panics, showing what it said, if it has ended.
    #[track_caller]
    pub fn expect_running(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the program ended with {ended:?}:\n{}", self.said());
    }

    /// Waits for its end; kills it and panics when that takes longer than `limit`.
    pub async fn finish(mut self, limit: Duration) -> Output {
        // With its pipes: whoever inherited them may hold them open.
        let ended = async {
            let status = self.child.wait().await.unwrap();
            let stdout = (&mut self.stdout).await.unwrap();
            (&mut self.reader).await.unwrap();
            (status, stdout)
        };
        let Ok((status, stdout)) = tokio::time::timeout(limit, ended).await else {
            panic!("{} ran longer than {limit:?}:\n{}", self.shown, self.said());
        };
        let stderr = self.stderr.lock().unwrap().clone();
        Output {
            code: status.code(),
            signal: status.signal(),
            json: stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()),
            stdout,
            stderr,
        }
    }
}

async fn collect(mut lines: BufReader<tokio::process::ChildStderr>, into: Arc<Mutex<String>>) {
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}
