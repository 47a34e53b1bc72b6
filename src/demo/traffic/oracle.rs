//! What one session knows its rows must look like. No I/O: it hears what was acknowledged.

use std::collections::HashMap;

use rand::{Rng, RngExt};

use super::action::{Action, Note};

/// A row as it is to be found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Image {
    Absent,
    Present(Note),
}

/// What is known of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fate {
    Settled(Image),
    /// The connection died before the answer came: the statement took place, or it did not.
    Doubtful(Image, Image),
}

/// Which of the rows that were there, and which new ids, are a session's own.
#[derive(Debug, Clone)]
pub(super) struct Share {
    pub(super) remainder: i64,
    pub(super) modulus: i64,
    pub(super) last_id: i64,
    pub(super) first_fresh_id: i64,
}

/// A row to do something with.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Stranger(i64),
    Known(i64, Note),
}

/// One session's knowledge; holds only rows it ever touched.
#[derive(Debug)]
pub(super) struct Oracle {
    share: Share,
    fates: HashMap<i64, Fate>,
    /// Ids to choose from; those that are no longer present are sorted out when met.
    candidates: Vec<i64>,
    next_fresh_id: i64,
    /// Rows moved by a statement in doubt: each is at exactly one of the two places.
    doubtful_moves: Vec<(i64, i64)>,
    /// By how many rows the table has grown, at least and at most.
    growth: (i64, i64),
}

impl Oracle {
    pub(super) fn new(share: Share) -> Oracle {
        Oracle {
            next_fresh_id: share.first_fresh_id,
            share,
            fates: HashMap::new(),
            candidates: Vec::new(),
            doubtful_moves: Vec::new(),
            growth: (0, 0),
        }
    }

    /// A row of this session's: half the time one of those that were there at the start.
    pub(super) fn choose(&mut self, rng: &mut impl Rng) -> Option<Target> {
        let initial = if rng.random::<bool>() { self.choose_initial(rng) } else { None };
        if initial.is_some() {
            return initial;
        }
        while !self.candidates.is_empty() {
            let index = rng.random_range(0..self.candidates.len());
            let id = self.candidates[index];
            match self.fates.get(&id) {
                Some(Fate::Settled(Image::Present(note))) => {
                    return Some(Target::Known(id, note.clone()));
                }
                _ => {
                    self.candidates.swap_remove(index);
                }
            }
        }
        self.choose_initial(rng)
    }

    fn choose_initial(&self, rng: &mut impl Rng) -> Option<Target> {
        // Ids are remainder + k × modulus, from 1 on.
        let first = if self.share.remainder == 0 { 1 } else { 0 };
        let last = (self.share.last_id - self.share.remainder).div_euclid(self.share.modulus);
        if last < first {
            return None;
        }
        let id = self.share.remainder + self.share.modulus * rng.random_range(first..=last);
        match self.fates.get(&id) {
            None => Some(Target::Stranger(id)),
            Some(Fate::Settled(Image::Present(note))) => Some(Target::Known(id, note.clone())),
            Some(_) => None,
        }
    }

    /// An id nobody else uses.
    pub(super) fn fresh_id(&mut self) -> i64 {
        self.next_fresh_id += 1;
        self.next_fresh_id - 1
    }

    /// The first look at a row showed this.
    pub(super) fn meet(&mut self, id: i64, image: Image) {
        self.settle(id, image);
    }

    /// The server acknowledged the action; `id` is the row's id afterwards.
    pub(super) fn acknowledge(&mut self, action: Action, id: i64) {
        match action {
            Action::Meet { .. } | Action::Read { .. } => {}
            Action::Insert { token, .. } => {
                self.settle(id, Image::Present(Some(token.into())));
                self.grow(1, 1);
            }
            Action::Update { id, note, token, .. } => {
                self.settle(id, Image::Present(appended(note, &token)));
            }
            Action::Delete { id, .. } => {
                self.settle(id, Image::Absent);
                self.grow(-1, -1);
            }
            Action::Move { id, note, to } => {
                self.settle(id, Image::Absent);
                self.settle(to, Image::Present(note));
            }
        }
    }

    /// Nobody knows whether the action took place.
    pub(super) fn doubt(&mut self, action: Action) {
        match action {
            Action::Meet { .. } | Action::Read { .. } => {}
            // Its id is not known either; the number of rows tells something.
            Action::Insert { .. } => self.grow(0, 1),
            Action::Update { id, note, token, .. } => {
                let after = Image::Present(appended(note.clone(), &token));
                self.fates.insert(id, Fate::Doubtful(Image::Present(note), after));
            }
            Action::Delete { id, note } => {
                self.fates.insert(id, Fate::Doubtful(Image::Present(note), Image::Absent));
                self.grow(-1, 0);
            }
            Action::Move { id, note, to } => {
                let here = Image::Present(note);
                self.fates.insert(id, Fate::Doubtful(here.clone(), Image::Absent));
                self.fates.insert(to, Fate::Doubtful(Image::Absent, here));
                self.doubtful_moves.push((id, to));
            }
        }
    }

    pub(super) fn fate(&self, id: i64) -> Option<&Fate> {
        self.fates.get(&id)
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.fates.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn doubtful_moves(&self) -> &[(i64, i64)] {
        &self.doubtful_moves
    }

    pub(super) fn growth(&self) -> (i64, i64) {
        self.growth
    }

    fn settle(&mut self, id: i64, image: Image) {
        let present = matches!(image, Image::Present(_));
        let before = self.fates.insert(id, Fate::Settled(image));
        if present && !matches!(before, Some(Fate::Settled(Image::Present(_)))) {
            self.candidates.push(id);
        }
    }

    fn grow(&mut self, least: i64, most: i64) {
        self.growth = (self.growth.0 + least, self.growth.1 + most);
    }
}

fn appended(note: Note, token: &str) -> Note {
    Some((note.map(String::from).unwrap_or_default() + token).into())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn oracle(remainder: i64, last_id: i64) -> Oracle {
        Oracle::new(Share { remainder, modulus: 3, last_id, first_fresh_id: 100 })
    }

    #[test]
    fn a_session_chooses_only_its_own_share() {
        let mut rng = StdRng::seed_from_u64(1);
        for (remainder, expected) in [(0, vec![3, 6]), (1, vec![1, 4, 7]), (2, vec![2, 5])] {
            let mut oracle = oracle(remainder, 7);
            let mut seen: Vec<i64> = (0..100)
                .filter_map(|_| match oracle.choose(&mut rng) {
                    Some(Target::Stranger(id)) => Some(id),
                    _ => None,
                })
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, expected);
        }
        assert_eq!(oracle(0, 2).choose(&mut rng), None);
        assert_eq!(oracle(1, 0).choose(&mut rng), None);
    }

    #[test]
    fn fates_follow_what_was_acknowledged() {
        let mut oracle = oracle(0, 0);
        let insert = Action::Insert { customer: 1, amount: "1".into(), token: "a".into() };
        oracle.acknowledge(insert.clone(), 7);
        let update = |note: &str| Action::Update {
            id: 7,
            note: Some(note.into()),
            token: "b".into(),
            status: "paid",
        };
        oracle.acknowledge(update("a"), 7);
        let moved = Action::Move { id: 7, note: Some("ab".into()), to: 100 };
        oracle.acknowledge(moved.clone(), 100);
        assert_eq!(oracle.fate(7), Some(&Fate::Settled(Image::Absent)));
        let present = Image::Present(Some("ab".into()));
        assert_eq!(oracle.fate(100), Some(&Fate::Settled(present.clone())));

        let mut rng = StdRng::seed_from_u64(1);
        let known = Target::Known(100, Some("ab".into()));
        assert_eq!(oracle.choose(&mut rng), Some(known));
        oracle.doubt(Action::Delete { id: 100, note: Some("ab".into()) });
        assert_eq!(oracle.fate(100), Some(&Fate::Doubtful(present, Image::Absent)));
        assert_eq!(oracle.choose(&mut rng), None, "rows in doubt are left alone");
        oracle.doubt(insert);
        assert_eq!(oracle.growth(), (0, 2));
    }
}
