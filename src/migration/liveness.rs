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
    let name = |process: &str| std::fs::read_to_string(format!("/proc/{process}/comm")).ok();
    let own = name("self")?;
    // In a container every process may have the number that the one before had.
    let itself = process == i64::from(std::process::id());
    Some(!itself && name(&process.to_string()).is_some_and(|name| name == own))
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
}
