//! Parts of the key space, for whoever goes through some of it only.

use tokio_postgres::types::ToSql;

use super::sql::Bounds;
use crate::pg::Raw;

/// A part of the captured key's space: lower bound exclusive, upper inclusive, absent ones open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub lower: Option<Vec<Raw>>,
    pub upper: Option<Vec<Raw>>,
}

impl Segment {
    /// All of it.
    pub(super) fn all() -> Self {
        Segment { lower: None, upper: None }
    }

    /// Which bounds it has.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { lower: self.lower.is_some(), upper: self.upper.is_some() }
    }

    /// Its bounds as statement parameters.
    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let bounds = self.lower.iter().chain(&self.upper).flatten();
        bounds.map(|raw| raw as &(dyn ToSql + Sync)).collect()
    }

    /// What is behind a range that ends so; None behind the last one.
    pub(super) fn behind(upper: &Option<Vec<Raw>>) -> Option<Self> {
        upper.clone().map(|upper| Segment { lower: Some(upper), upper: None })
    }

    /// All of it, cut at these keys, which are in the server's order.
    pub(super) fn between(keys: impl Iterator<Item = Vec<Raw>>) -> Vec<Self> {
        let mut all = vec![Segment::all()];
        for key in keys {
            if let Some(last) = all.last_mut() {
                last.upper = Some(key.clone());
            }
            all.push(Segment { lower: Some(key), upper: None });
        }
        all
    }
}

/// In an order in which the first so many, however many those are, are from all over the whole: the middle
/// before the quarters, those before the eighths (bits of the index reversed, a van der Corput sequence).
pub(super) fn spread<T>(all: Vec<T>) -> Vec<T> {
    let bits = usize::BITS - all.len().saturating_sub(1).leading_zeros();
    let mut keyed: Vec<(usize, T)> = all.into_iter().enumerate().collect();
    keyed
        .sort_by_key(|(n, _)| if bits == 0 { 0 } else { n.reverse_bits() >> (usize::BITS - bits) });
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn however_few_are_taken_they_are_from_all_over() {
        assert_eq!(spread(vec![0; 0]), vec![0; 0]);
        assert_eq!(spread(vec![7]), [7]);
        assert_eq!(spread((0..8).collect()), [0, 4, 2, 6, 1, 5, 3, 7]);
        for all in [5usize, 64, 100] {
            let order = spread((0..all).collect());
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..all).collect::<Vec<_>>(), "each of them once");
            for taken in 4..all {
                let below = order[..taken].iter().filter(|n| **n < all / 2).count();
                let share = below as f64 / taken as f64;
                assert!(
                    (0.3..=0.75).contains(&share),
                    "{taken} of {all}: {share} in the first half"
                );
            }
        }
    }

    #[test]
    fn segments_have_no_gap_between_them() {
        let key = |n: u8| vec![Raw(Bytes::copy_from_slice(&[n]))];
        let cut = Segment::between([key(3), key(9)].into_iter());
        let expected = [(None, Some(3)), (Some(3), Some(9)), (Some(9), None)];
        let segment = |(lower, upper): (Option<u8>, Option<u8>)| Segment {
            lower: lower.map(key),
            upper: upper.map(key),
        };
        assert_eq!(cut, expected.map(segment));
        assert_eq!(Segment::between(std::iter::empty()), [Segment::all()]);
    }
}
