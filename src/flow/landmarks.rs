//! How far a copy is by the key: keys from all over the key space, and how many of them are behind it.
//!
//! Unlike the number of rows this needs no estimate that may be wrong. It is for people: where two keys
//! compare in another way than the table's index compares them (a collation of the column), it is a little off.

use tokio_postgres::types::ToSql;

use super::Flow;
use super::key::{Key, key_arrays};
use crate::change::Course;
use crate::error::Result;
use crate::pg::{Raw, RawArray, Session};

/// Keys in the server's order, at equal numbers of rows from each other as far as is known.
#[derive(Debug, Default)]
pub(super) struct Landmarks {
    /// As statement parameters, one a column of the key.
    keys: Vec<RawArray>,
    count: usize,
    /// It is never less.
    position: Option<f32>,
}

impl Landmarks {
    /// `before` is how far an earlier run was.
    pub(super) fn new(course: &Course, keys: &[Vec<Raw>], before: Option<f32>) -> Self {
        let packed: Vec<Key> =
            keys.iter().map(|key| Key::pack(key.iter().map(|raw| &raw.0[..]))).collect();
        let arrays =
            key_arrays(course.columns.iter().map(|column| column.source_type_oid), &packed);
        Landmarks { keys: arrays, count: packed.len(), position: before }
    }

    /// How far it is where it has come to `key`, as a share of all; the end is 1. None where that is unknown.
    pub(super) async fn at(
        &mut self,
        session: &Session,
        course: &Course,
        key: Option<&[Raw]>,
    ) -> Result<Option<f32>> {
        let Some(key) = key else { return Ok(Some(1.0)) };
        if self.count == 0 {
            return Ok(self.position);
        }
        // All of them in one question: every other one is a journey to the server and back.
        let parameters: Vec<&(dyn ToSql + Sync)> = self
            .keys
            .iter()
            .map(|array| array as &(dyn ToSql + Sync))
            .chain(key.iter().map(|raw| raw as &(dyn ToSql + Sync)))
            .collect();
        let passed: i64 = session.one(&Flow::passed_keys(course), &parameters).await?.get(0);
        let share = passed as f32 / (self.count + 1) as f32;
        self.position = Some(self.position.unwrap_or(0.0).max(share));
        Ok(self.position)
    }
}
