//! Readings that others bring, who look at the thing for reasons of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::throttle::controller::Reading;

/// The last reading of each signal. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<BTreeMap<String, Reading>>>);

impl Told {
    /// In place of the one before.
    pub fn tell(&self, reading: Reading) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(reading.signal.clone(), reading);
    }

    /// All of them.
    pub fn readings(&self) -> Vec<Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
