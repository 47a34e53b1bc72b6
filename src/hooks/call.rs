//! One call of a hook.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

use super::{Hook, Hooks, Running};

/// So much of what a hook prints is told: one that prints without end does not fill the log.
const LINES: usize = 100;
const LINE: u64 = 1000;
/// What it has started may hold its output open: after its own end nobody waits longer for that.
const REST: Duration = Duration::from_millis(500);

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    how: How,
    took: Duration,
}

#[derive(Debug)]
enum How {
    Exited(ExitStatus),
    TimedOut,
    NotStarted(std::io::Error),
}

impl Ended {
    /// Whether it did what it should.
    pub fn is_good(&self) -> bool {
        matches!(self.how, How::Exited(status) if status.success())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        match &self.how {
            How::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit code {code} after {seconds:.1} s"),
                (None, signal) => {
                    write!(f, "ended by signal {} after {seconds:.1} s", signal.unwrap_or_default())
                }
            },
            How::TimedOut => write!(f, "killed after {seconds:.1} s (--hook-timeout)"),
            How::NotStarted(e) => write!(f, "it cannot be started: {e}"),
        }
    }
}

impl Hooks {
    /// Calls a hook, where there is one, with what it should know; tells each line that it prints to `told`.
    ///
    /// Dropped before its end it is killed, with all that it has started.
    pub async fn call(
        &self,
        hook: Hook,
        facts: &Map<String, Value>,
        told: impl Fn(String),
    ) -> Option<Ended> {
        if !self.has(hook) {
            return None;
        }
        let started = Instant::now();
        let how = timeout(self.limit, self.run(hook, facts, &told)).await;
        let how = how.unwrap_or(Ok(How::TimedOut)).unwrap_or_else(How::NotStarted);
        Some(Ended { how, took: started.elapsed() })
    }

    async fn run(
        &self,
        hook: Hook,
        facts: &Map<String, Value>,
        told: &impl Fn(String),
    ) -> std::io::Result<How> {
        let mut command = Command::new(self.folder.join(hook.as_str()));
        command.current_dir(&self.folder).process_group(0);
        command.env("PGWRAITH_EVENT", hook.as_str());
        for (name, value) in facts {
            command.env(format!("PGWRAITH_{}", name.to_uppercase()), as_text(value));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let _group = child.id().map(|pid| Group::new(pid as i32, &self.running));
        let input = send(child.stdin.take(), hook, facts);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let told = |line: String| told(format!("hook {}: {line}", hook.as_str()));
        let output = async {
            tokio::join!(
                tell(out.map(BufReader::new), &told),
                tell(err.map(BufReader::new), &told)
            );
        };
        tokio::pin!(output, input);
        let (mut is_read, mut is_sent) = (false, false);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = &mut output, if !is_read => is_read = true,
                () = &mut input, if !is_sent => is_sent = true,
            }
        };
        if !is_read {
            let _ = timeout(REST, output).await;
        }
        Ok(How::Exited(status))
    }
}

/// A hook need not read what it is sent.
async fn send(stdin: Option<ChildStdin>, hook: Hook, facts: &Map<String, Value>) {
    let Some(mut stdin) = stdin else { return };
    let mut all = Map::new();
    all.insert("event".into(), hook.as_str().into());
    all.extend(facts.clone());
    let _ = stdin.write_all(format!("{}\n", Value::Object(all)).as_bytes()).await;
}

/// Tells line after line; what is too much is read all the same, so that nobody waits to be read.
async fn tell(from: Option<impl AsyncBufRead + Unpin>, told: &impl Fn(String)) {
    let Some(mut from) = from else { return };
    let mut lines = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => lines += 1,
        }
        match lines {
            ..=LINES => told(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ if lines == LINES + 1 => told("it prints more, which is not told".to_owned()),
            _ => {}
        }
    }
}

/// In the environment everything is text.
fn as_text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.replace('\0', " ")
}

/// A hook and all that it has started and that did not leave its process group: killed at the end of the call.
struct Group<'a> {
    id: i32,
    running: &'a Running,
}

impl<'a> Group<'a> {
    fn new(id: i32, running: &'a Running) -> Self {
        running.lock().insert(id);
        Group { id, running }
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        kill_group(self.id);
        self.running.lock().remove(&self.id);
    }
}

/// Of a group that is gone nothing is left to be killed.
pub(super) fn kill_group(id: i32) {
    // SAFETY: killpg takes plain numbers.
    unsafe { libc::killpg(id, libc::SIGKILL) };
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
