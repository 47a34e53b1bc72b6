//! Whether somebody runs a migration.
//!
//! The server's sessions alone do not tell. A run that waits for the server to come back has none, and goes
//! on in a moment; one that was killed may leave some, that sort for an index still. On its own host the
//! process itself tells; for another host what the run last wrote to the state does.

use super::store::{self, Stored};
use super::takeover;
use crate::error::Result;
use crate::pg::Session;

/// A run writes that it is there more often; after a server's restart it comes back within this.
const SILENCE: f64 = 60.0;

/// Who runs the migration, for a message; None where nobody does, whatever sessions are left of who did.
pub(super) async fn run_by(session: &Session, stored: &Stored) -> Result<Option<String>> {
    let sessions = takeover::sessions(session, stored.id).await?;
    let told = |by: &str| match sessions.split_first() {
        Some((first, rest)) => {
            format!("{by}: the server has its sessions, {first} and {} more", rest.len())
        }
        None => by.to_owned(),
    };
    let Some((host, process)) = &stored.run_by else {
        return Ok((!sessions.is_empty()).then(|| told("another process")));
    };
    let by = format!("process {process} on {host}");
    if *host == store::host()
        && let Some(alive) = is_ours(*process)
    {
        return Ok(alive.then(|| told(&by)));
    }
    if !sessions.is_empty() {
        return Ok(Some(told(&by)));
    }
    let silent = store::silence(session, stored.id).await?;
    Ok(silent.filter(|seconds| *seconds < SILENCE).map(|seconds| {
        format!(
            "{by}, which was there {seconds:.0} s ago, or comes back after the server's restart"
        )
    }))
}

/// Whether a process of this machine is one of this program; None where that cannot be told.
fn is_ours(process: i64) -> Option<bool> {
    let (own, _) = name_and_state("self")?;
    // In a container every process may have the number that the one before had.
    let itself = process == i64::from(std::process::id());
    // One that is dead keeps its name until its parent has asked what became of it.
    let is_alive = |(name, state): (String, char)| name == own && !matches!(state, 'Z' | 'X');
    Some(!itself && name_and_state(&process.to_string()).is_some_and(is_alive))
}

/// `1 (name) S …`, as the kernel shows it; a name may have parentheses too.
fn name_and_state(process: &str) -> Option<(String, char)> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (before, behind) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some((name.to_owned(), behind.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_name() {
        assert_eq!(is_ours(i64::from(std::process::id())), Some(false));
        assert_eq!(is_ours(1), Some(false), "of another program");
        assert_eq!(is_ours(i64::from(i32::MAX)), Some(false), "there is none");
    }

    #[test]
    fn one_that_is_dead_and_not_yet_asked_after_is_dead() {
        let own = std::env::current_exe().unwrap();
        // With the name of this program, and its end in sight.
        let mut child = std::process::Command::new(own)
            .arg("--list")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        let process = child.id().to_string();
        // Its output is closed a moment before it is dead.
        while !matches!(name_and_state(&process), Some((_, 'Z'))) {
            std::thread::yield_now();
        }
        assert_eq!(is_ours(i64::from(child.id())), Some(false));
        child.wait().unwrap();
    }
}
