//! Every task's end reaches one place: the first error stops the run, and so does the operator.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// So long a task may take to end. What it has open is rolled back by the server then, or, where it
/// cannot know, finds another epoch (**Invariant 9**).
const LIMIT: Duration = Duration::from_secs(10);

/// Watches over the tasks of one run. Cloning shares it.
#[derive(Clone, Default)]
pub struct Supervisor {
    /// The operator said stop, and how: for good.
    stopped: First<String>,
    /// Something failed.
    failed: First<Error>,
}

/// The first of several words, and that it was said.
struct First<T> {
    said: CancellationToken,
    word: Arc<Mutex<Option<T>>>,
}

impl<T> First<T> {
    fn say(&self, word: T) {
        let mut first = self.lock();
        if first.is_none() && !self.said.is_cancelled() {
            *first = Some(word);
        }
        drop(first);
        self.said.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for First<T> {
    fn default() -> Self {
        First { said: CancellationToken::default(), word: Arc::default() }
    }
}

impl<T> Clone for First<T> {
    fn clone(&self) -> Self {
        First { said: self.said.clone(), word: Arc::clone(&self.word) }
    }
}

impl Supervisor {
    /// Stops the run for the operator.
    pub fn stop(&self, how: &str) {
        self.stopped.say(how.to_owned());
    }

    /// Watches over another stretch of the same run: what failed before is over, a stop is not.
    pub fn next_stretch(&self) -> Supervisor {
        Supervisor { stopped: self.stopped.clone(), failed: First::default() }
    }

    /// Stops this stretch because of `error`; only the first counts.
    pub fn fail(&self, error: Error) {
        self.failed.say(error);
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
            _ = self.stopped.said.cancelled() => Err(self.take()),
            _ = self.failed.said.cancelled() => Err(self.take()),
            done = phase => match done {
                // What broke the phase may be the echo of another task's error: that came first.
                Err(e) if self.failed.said.is_cancelled() || self.stopped.said.is_cancelled() => {
                    tracing::debug!("follows from an earlier error: {e}");
                    Err(self.take())
                }
                done => done,
            }
        }
    }

    /// Does what must not be cut off, since nobody would know what became of it: a stop waits until it is done, no
    /// longer than [`LIMIT`].
    pub async fn see_through<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let mut step = std::pin::pin!(step);
        tokio::select! {
            biased;
            done = &mut step => return done,
            _ = self.stopped.said.cancelled() => {}
        }
        timeout(LIMIT, step).await.unwrap_or_else(|_| Err(self.take()))
    }

    fn take(&self) -> Error {
        if self.stopped.said.is_cancelled() {
            let how = self.stopped.lock().clone().unwrap_or_default();
            return Error::new(Kind::Stopped, format!("stopped by the operator ({how})"));
        }
        self.failed.lock().take().unwrap_or_else(|| Error::failed("the run was stopped"))
    }
}

/// A task beside the phases.
pub struct Background {
    end: CancellationToken,
    handle: JoinHandle<()>,
}

impl Background {
    /// Asks the task to end and waits for it; where it waits for a server that does not answer, no
    /// longer than [`LIMIT`].
    pub async fn finish(mut self) {
        self.end.cancel();
        match timeout(LIMIT, &mut self.handle).await {
            Ok(Err(e)) if e.is_panic() => tracing::error!("a task panicked: {e}"),
            Ok(_) => {}
            Err(_) => self.handle.abort(),
        }
    }
}
