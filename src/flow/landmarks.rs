//! How far a copy is by the key: keys from all over the key space, and how many of them are behind it.
//!
//! Unlike the number of rows this needs no estimate that may be wrong. It is for people: where two keys
//! compare in another way than the table's index compares them (a collation of the column), it is a little off.

use tokio_postgres::types::ToSql;

use super::Flow;
use crate::error::Result;
use crate::pg::{Raw, Session};

/// Keys in the server's order, at equal numbers of rows from each other as far as is known.
#[derive(Debug, Default)]
pub(super) struct Landmarks {
    keys: Vec<Vec<Raw>>,
    /// So many were passed.
    passed: usize,
    /// It is never less.
    position: Option<f32>,
}

impl Landmarks {
    /// `before` is how far an earlier run was.
    pub(super) fn new(keys: Vec<Vec<Raw>>, before: Option<f32>) -> Self {
        Landmarks { keys, passed: 0, position: before }
    }

    /// How far it is where it has come to `key`, as a share of all; the end is 1. None where that is unknown.
    pub(super) async fn at(
        &mut self,
        session: &Session,
        flow: &Flow,
        key: Option<&[Raw]>,
    ) -> Result<Option<f32>> {
        let Some(key) = key else { return Ok(Some(1.0)) };
        if self.keys.is_empty() {
            return Ok(self.position);
        }
        let (mut from, mut to) = (self.passed, self.keys.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            let both: Vec<&(dyn ToSql + Sync)> =
                self.keys[middle].iter().chain(key).map(|raw| raw as &(dyn ToSql + Sync)).collect();
            match session.one(&flow.is_reached(), &both).await?.get(0) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        self.passed = from;
        let share = from as f32 / (self.keys.len() + 1) as f32;
        self.position = Some(self.position.unwrap_or(0.0).max(share));
        Ok(self.position)
    }
}
