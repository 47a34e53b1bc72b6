//! The partitions of one table, as everybody who works with it knows them.

use std::sync::{Arc, PoisonError, RwLock};

use super::Partition;
use crate::pg::QualifiedName;

/// Each behind what it is a part of. Clones are the same list: where rows may come for which there is no partition, it
/// grows while a run lasts, and never shrinks or changes its order.
#[derive(Debug, Clone, Default)]
pub struct Partitions(Arc<RwLock<Vec<Partition>>>);

impl Partitions {
    /// These.
    pub fn of(partitions: Vec<Partition>) -> Self {
        Partitions(Arc::new(RwLock::new(partitions)))
    }

    /// Those that there are by now.
    pub fn all(&self) -> Vec<Partition> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are by now.
    pub fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The partitions of `root` that have rows, wherever that is called what.
    pub fn leaves(&self, root: &QualifiedName) -> Vec<QualifiedName> {
        let all = self.all().into_iter().filter(|partition| partition.by.is_none());
        all.map(|partition| root.sibling(partition.name)).collect()
    }

    /// More of them, which are there and in the state.
    pub fn add(&self, more: Vec<Partition>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(more);
    }
}
