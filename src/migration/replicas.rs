//! Has the standbys of `--replica` asked, whichever those are by now.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::run::Settings;
use crate::error::Result;
use crate::throttle::replica::System;
use crate::throttle::signals::Replicas;

/// Those who ask.
pub(super) struct Asking {
    pub(super) replicas: Replicas,
    /// The name of their sessions.
    pub(super) role: String,
    /// The server whose standbys they are, where that is known.
    pub(super) primary: Option<System>,
    pub(super) settings: watch::Receiver<Settings>,
}

impl Asking {
    /// Each on its own: one that does not answer keeps nobody else from being asked. None of them fails the
    /// run, since what cannot be measured holds the copy up.
    pub(super) async fn go_on(mut self, end: CancellationToken) -> Result<()> {
        // They end with it.
        let mut tasks = JoinSet::new();
        let mut asked: HashMap<String, AbortHandle> = HashMap::new();
        loop {
            let wanted = self.settings.borrow_and_update().throttle.replicas.clone();
            asked.retain(|dsn, task| {
                let stays = wanted.contains(dsn);
                if !stays {
                    task.abort();
                    self.replicas.forget(dsn);
                }
                stays
            });
            for dsn in wanted {
                asked.entry(dsn).or_insert_with_key(|dsn| {
                    let (replicas, role, primary) =
                        (self.replicas.clone(), self.role.clone(), self.primary);
                    let dsn = dsn.clone();
                    tasks.spawn(async move { replicas.ask(&dsn, &role, primary).await })
                });
            }
            tokio::select! {
                () = end.cancelled() => return Ok(()),
                // Without a sender the governor is gone, and the end near.
                changed = self.settings.changed() => if changed.is_err() {
                    end.cancelled().await;
                    return Ok(());
                },
            }
        }
    }
}
