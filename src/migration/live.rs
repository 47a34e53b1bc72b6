//! The limits of a run as they are by now. The operator may change them at any moment and from any host, so whoever
//! goes by one asks for it each time, and keeps none for later.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::run::Settings;
use super::store;
use crate::error::Result;
use crate::pg::Session;

/// What flags mean.
type Reread = fn(&Value) -> Result<Settings>;

/// They outlive each stretch of the run. Cloning shares them.
#[derive(Clone)]
pub struct Live {
    settings: watch::Sender<Settings>,
    /// The flags that the settings are from.
    flags: Arc<Mutex<Value>>,
    reread: Reread,
    /// The last event whose words were told.
    heard: Arc<AtomicI64>,
}

impl Live {
    /// As they are when the run starts, and how flags are read that are set in mid-run.
    pub fn new(settings: Settings, flags: Value, reread: Reread) -> Self {
        let (settings, flags) = (watch::Sender::new(settings), Arc::new(Mutex::new(flags)));
        Live { settings, flags, reread, heard: Arc::default() }
    }

    pub(super) fn now(&self) -> Settings {
        self.settings.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Settings> {
        self.settings.subscribe()
    }

    /// What these flags mean.
    pub(super) fn read(&self, flags: &Value) -> Result<Settings> {
        (self.reread)(flags)
    }

    /// Whether these flags are others than those that hold.
    pub(super) fn are_news(&self, flags: &Value) -> bool {
        *self.flags() != *flags
    }

    /// From now on these flags hold; what cannot be understood changes nothing.
    pub(super) fn take_over(&self, flags: Value) -> Result<()> {
        let settings = self.read(&flags);
        *self.flags() = flags;
        self.settings.send_replace(settings?);
        Ok(())
    }

    /// What was typed since the run began, or since this was asked for last.
    pub(super) async fn typed(&self, session: &Session, migration: i64) -> Result<Vec<String>> {
        let heard = self.heard.load(Ordering::Relaxed);
        let words = store::typed(session, migration, heard).await?;
        if let Some((last, _)) = words.last() {
            self.heard.store(*last, Ordering::Relaxed);
        }
        Ok(words.into_iter().map(|(_, words)| words).collect())
    }

    fn flags(&self) -> MutexGuard<'_, Value> {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
