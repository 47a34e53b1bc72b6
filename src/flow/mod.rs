//! A flow: one captured relation feeding one target, and what is done over it.
//!
//! The stream says *which* keys changed, the source says *what* they hold now: copy, sync and repair
//! are the same projection executed by the server over a key range or a set of keys. Nothing here
//! names "source" or "shadow": the same flow turned round serves going back after cutover.
//!
//! All writes to the target go through one door ([`write::Door`]): a chunk or a batch holds it
//! shared, whatever must be alone (TRUNCATE, a point of Invariant 6, an index build, the cutover)
//! holds it exclusively. Within it, chunks are disjoint ranges and batches are disjoint key sets, so
//! no two transactions write one key at a time (**Invariant 4**; where ranges go along another order than the
//! key's, but for dirty keys: [`moved`]).

pub mod blame;
pub mod capture;
pub mod chunk;
mod clash;
pub mod compare;
pub mod copy;
mod cut;
pub mod differ;
pub mod dirty;
#[cfg(test)]
mod dirty_tests;
mod duplicate;
pub mod fill;
pub mod found;
pub mod keeper;
pub mod key;
mod landmarks;
pub mod moved;
pub mod newcomer;
pub mod pace;
mod piece;
pub mod room;
pub mod sample;
pub mod segment;
pub mod sql;
#[cfg(test)]
mod sql_tests;
pub mod sync;
mod together;
pub mod truncate;
pub mod verify;
pub mod write;

use crate::catalog::{Watched, scanned};
use crate::change::partition::Partitions;
use crate::change::{Course, KeyColumn, Projected};
use crate::pg::QualifiedName;

/// A limit as it is by now: the operator may change it while the work goes on.
pub type Now<T> = Box<dyn Fn() -> T + Send + Sync>;

/// One captured relation feeding one target.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The migration it belongs to, and its number there.
    pub migration: i64,
    pub number: i32,
    pub captured: Captured,
    pub target: Target,
    pub projection: Vec<Projected>,
    pub key: Vec<KeyColumn>,
    /// The order that rows are copied in, where that is not the key's.
    pub order: Option<Course>,
    /// Signatures of the functions that the projection and the condition on rows call, but for PostgreSQL's own.
    pub functions: Vec<String>,
    pub publication: String,
    pub slot: String,
}

/// The relation whose changes are captured.
#[derive(Debug, Clone)]
pub struct Captured {
    pub oid: u32,
    pub name: QualifiedName,
    /// Where its rows are read: the relation itself, or a view of ours over it.
    pub rows: QualifiedName,
    /// Where ranges of them are cut: by all keys, also of rows that are not wanted, or a range of which next to
    /// nothing is wanted would go through all of the table.
    pub keys: QualifiedName,
    /// Its rows are in partitions, whose changes come under their own names.
    pub is_partitioned: bool,
}

impl Captured {
    /// The view that the rows are read through, where they are.
    ///
    /// Rows are read as the table's owner, so that functions in expressions never have the tool's
    /// rights. Where row security is forced on the owner, a view that belongs to the tool's role hides
    /// nothing: rights on the table, and row security, are those of the view's owner, while functions
    /// still run as whoever asks.
    pub fn view(&self) -> Option<&QualifiedName> {
        (self.rows != self.name).then_some(&self.rows)
    }

    /// What follows FROM where its rows are read.
    pub fn scanned(&self) -> String {
        scanned(&self.rows, self.is_partitioned)
    }

    /// What follows FROM where ranges are cut.
    pub fn keys_scanned(&self) -> String {
        scanned(&self.keys, self.is_partitioned)
    }

    /// Whether its keys are read in the relation itself: nothing hides rows from its owner.
    pub fn shows_all_keys(&self) -> bool {
        self.keys == self.name
    }

    /// The relation itself, with its partitions, where a lock is taken or a part of it is read.
    pub fn itself(&self) -> String {
        scanned(&self.name, self.is_partitioned)
    }
}

/// Where the rows go: a root to write to, which holds them itself, or has partitions that do.
#[derive(Debug, Clone)]
pub struct Target {
    pub root: QualifiedName,
    pub partitions: Option<Partitions>,
    /// Whether it has a unique index on exactly the key, by which a row can be written over. Where rows are
    /// divided by another column there is none: a row with another value of it is in another partition.
    pub upserts: bool,
    /// Who makes partitions for rows that have none.
    pub room: room::Room,
}

impl Target {
    /// One that holds its rows itself.
    pub fn ordinary(root: QualifiedName, upserts: bool) -> Self {
        Target { root, partitions: None, upserts, room: room::Room::default() }
    }

    /// Whether the rows are in partitions.
    pub fn is_partitioned(&self) -> bool {
        self.partitions.is_some()
    }

    /// The partitions that have rows, those that there are by now; none where there are none.
    pub fn leaves(&self) -> Vec<QualifiedName> {
        self.partitions.as_ref().map_or_else(Vec::new, |all| all.leaves(&self.root))
    }

    /// The relations that hold the rows: itself, or its partitions.
    pub fn relations(&self) -> Vec<QualifiedName> {
        if self.is_partitioned() { self.leaves() } else { vec![self.root.clone()] }
    }
}

impl Flow {
    /// Whether keys that differ in their bytes are different keys; only then may two batches run at
    /// a time (**Invariant 4**: key identity is the server's `=`, not the text).
    pub fn is_canonical(&self) -> bool {
        self.key.iter().all(|k| k.canonical)
    }

    /// What must not change while it goes on.
    pub fn watched(&self) -> Watched<'_> {
        let (table, functions) = (self.captured.oid, &self.functions);
        Watched { table, publication: &self.publication, functions }
    }

    /// Whether a range of the captured key is a range of the target's key.
    pub fn keeps_order(&self) -> bool {
        self.key.iter().all(|k| k.keeps_order)
    }

    /// What ranges of this kind go along.
    pub fn course(&self, kind: chunk::Kind) -> Course {
        let order = self.order.clone().filter(|_| kind == chunk::Kind::Copy);
        order.unwrap_or_else(|| Course::of_key(&self.key))
    }

    /// The element types of key array parameters.
    pub fn key_type_oids(&self) -> impl Iterator<Item = u32> {
        self.key.iter().map(|k| k.source_type_oid)
    }
}
