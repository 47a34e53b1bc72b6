//! Every task's end reaches one place: the first error stops the run, and so does the operator.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Watches over the tasks of one run. Cloning shares it.
#[derive(Clone, Default)]
pub struct Supervisor {
    /// Something failed, or the operator said stop.
    failed: CancellationToken,
    error: Arc<Mutex<Option<Error>>>,
}

impl Supervisor {
    /// Stops the run for the operator.
    pub fn stop(&self, how: &str) {
        self.fail(Error::new(Kind::Stopped, format!("stopped by the operator ({how})")));
    }

    /// Stops the run because of `error`; only the first counts.
    pub fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() && !self.failed.is_cancelled() {
            *first = Some(error);
        }
        drop(first);
        self.failed.cancel();
    }

    /// Runs a task beside the phases; its failure stops the run. The task gets a token that asks it
    /// to end.
    pub fn spawn<F, Task>(&self, task: Task) -> Background
    where
        Task: FnOnce(CancellationToken) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let end = CancellationToken::new();
        let work = task(end.clone());
        let supervisor = self.clone();
        let handle = tokio::spawn(async move {
            if let Err(e) = work.await {
                supervisor.fail(e);
            }
        });
        Background { end, handle }
    }

    /// Runs a phase until it ends, or something else stops the run.
    pub async fn guard<T>(&self, phase: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            _ = self.failed.cancelled() => Err(self.take()),
            done = phase => match done {
                // What broke the phase may be the echo of another task's error: that came first.
                Err(e) if self.failed.is_cancelled() => {
                    tracing::debug!("follows from an earlier error: {e}");
                    Err(self.take())
                }
                done => done,
            }
        }
    }

    fn take(&self) -> Error {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().unwrap_or_else(|| Error::failed("the run was stopped"))
    }
}

/// A task beside the phases.
pub struct Background {
    end: CancellationToken,
    handle: JoinHandle<()>,
}

impl Background {
    /// Asks the task to end and waits for it.
    pub async fn finish(self) {
        self.end.cancel();
        if let Err(e) = self.handle.await
            && e.is_panic()
        {
            tracing::error!("a task panicked: {e}");
        }
    }
}
