//! Programs of the operator's, called when something is about to happen or has happened.
//!
//! They are found by their names in one folder, on the host of the run, before it begins. A hook gets what it
//! should know in its environment and as JSON on its standard input. It has a time limit, after which it and
//! whatever it has started is killed; so it is when the run ends. What it prints is told.

mod call;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use call::Ended;

use crate::error::{Error, Kind, Result};

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Nothing was made yet; its failure is the end of the run.
    BeforeStart,
    /// The new table equals the old one, and only the swap is left.
    Ready,
    /// The names are about to be swapped; its failure puts that off.
    BeforeCutover,
    /// The names are swapped.
    AfterCutover,
    /// The operator stopped the run.
    Stopped,
    /// The run failed.
    Failed,
    /// The run waits for a signal that is over its limit.
    Throttled,
}

impl Hook {
    const ALL: [Hook; 7] = [
        Hook::BeforeStart,
        Hook::Ready,
        Hook::BeforeCutover,
        Hook::AfterCutover,
        Hook::Stopped,
        Hook::Failed,
        Hook::Throttled,
    ];

    /// The name of its file.
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::BeforeStart => "before-start",
            Hook::Ready => "ready",
            Hook::BeforeCutover => "before-cutover",
            Hook::AfterCutover => "after-cutover",
            Hook::Stopped => "stopped",
            Hook::Failed => "failed",
            Hook::Throttled => "throttled",
        }
    }
}

/// The hooks of one run. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    folder: PathBuf,
    limit: Duration,
    there: Vec<Hook>,
    running: Running,
}

/// The process groups of the hooks that run now.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<BTreeSet<i32>>>);

impl Hooks {
    /// Those in `folder`, each with a time limit. A folder that is not there, and a file with a hook's name that
    /// cannot be run, are refused: a hook that is never called is worse than none.
    pub fn find(folder: &Path, limit: Duration) -> Result<Hooks> {
        let refuse = |what: String| {
            Error::new(Kind::Refused, what)
                .state("Nothing was touched")
                .next("Correct --hooks DIR, or leave it out")
        };
        let folder = folder
            .canonicalize()
            .map_err(|e| refuse(format!("--hooks {}: {e}", folder.display())))?;
        if !folder.is_dir() {
            return Err(refuse(format!("--hooks {} is not a folder", folder.display())));
        }
        let mut there = Vec::new();
        for hook in Hook::ALL {
            let path = folder.join(hook.as_str());
            if path.symlink_metadata().is_err() {
                continue;
            }
            let runs = path
                .metadata()
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
            if !runs {
                return Err(refuse(format!("the hook {} cannot be executed", path.display())));
            }
            there.push(hook);
        }
        Ok(Hooks { folder, limit, there, running: Running::default() })
    }

    /// Whether there is one.
    pub fn has(&self, hook: Hook) -> bool {
        self.there.contains(&hook)
    }

    /// Kills whatever still runs: the run ends.
    pub fn kill(&self) {
        for group in self.running.lock().iter() {
            call::kill_group(*group);
        }
    }
}

impl Running {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
