//! Statements of this process that the server has not answered yet. A network that loses packets without
//! a word leaves the client waiting for an answer that was given long ago: only by comparing with what
//! the server says of its backends can that be told from work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Since when which backend owes an answer; shared by all sessions of a connector.
#[derive(Clone, Default)]
pub struct Unanswered(Arc<Mutex<HashMap<i32, Instant>>>);

impl Unanswered {
    /// Backends that have owed an answer for longer than `limit`.
    pub fn longer_than(&self, limit: Duration) -> Vec<i32> {
        let late = |(pid, since): (&i32, &Instant)| (since.elapsed() > limit).then_some(*pid);
        self.lock().iter().filter_map(late).collect()
    }

    /// Notes that a statement was sent to the backend `pid`, until what is returned is dropped.
    pub(super) fn sent(&self, pid: i32) -> Sent<'_> {
        self.lock().insert(pid, Instant::now());
        Sent { all: self, pid }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement that was sent.
pub(super) struct Sent<'a> {
    all: &'a Unanswered,
    pid: i32,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.pid);
    }
}
