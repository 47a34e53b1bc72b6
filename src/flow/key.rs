//! Keys as the stream carries them: each column's binary form, in key order.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::pg::{Raw, RawArray};

/// One captured key. Two keys with the same bytes are the same row's key; the converse holds only
/// for types whose equal values have equal bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// Packs the columns, each behind its length.
    pub fn pack<'a>(columns: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::with_capacity(16);
        for column in columns {
            bytes.extend_from_slice(&(column.len() as u32).to_be_bytes());
            bytes.extend_from_slice(column);
        }
        Key(bytes.into())
    }

    /// The key in a result row's first columns.
    pub fn of_row(row: &Row, columns: usize) -> Self {
        let columns: Vec<Raw> = (0..columns).map(|i| row.get(i)).collect();
        Key::pack(columns.iter().map(|c| &c.0[..]))
    }

    /// The packed bytes, as stored in `pgwraith.dirty`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key whose packed bytes these are.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Key(bytes.into())
    }

    /// The columns' binary forms.
    pub fn columns(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (column, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            rest = tail;
            Some(column)
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.columns()).finish()
    }
}

/// One array parameter a key column, for statements that take a set of keys.
pub fn key_arrays<'a>(
    type_oids: impl IntoIterator<Item = u32>,
    keys: impl IntoIterator<Item = &'a Key>,
) -> Vec<RawArray> {
    let mut arrays: Vec<RawArray> = type_oids.into_iter().map(RawArray::new).collect();
    for key in keys {
        for (array, column) in arrays.iter_mut().zip(key.columns()) {
            array.push(column);
        }
    }
    arrays
}

/// They, as the first parameters of a statement.
pub fn array_parameters(arrays: &[RawArray]) -> Vec<&(dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_is_exact(columns in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..5)) {
            let key = Key::pack(columns.iter().map(Vec::as_slice));
            prop_assert_eq!(key.columns().map(<[u8]>::to_vec).collect::<Vec<_>>(), columns);
            prop_assert_eq!(Key::from_bytes(key.as_bytes()), key);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            Key::from_bytes(&bytes).columns().count();
        }
    }
}
