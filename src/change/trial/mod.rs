//! What PostgreSQL would do if the change were a plain ALTER TABLE: asked of it, on an empty clone of the
//! table in a transaction that is rolled back.
//!
//! Whether the table gets a new file, which indexes are built, whether rows are read, and which locks are
//! taken, is decided by the catalogs and not by the rows: an empty clone that has the table's columns,
//! constraints, indexes and foreign keys is treated as the table would be. So the answer is that of the
//! server's own version ([`observe`]); what follows from it is a pure function ([`verdict`]). A partitioned table is
//! altered otherwise than an ordinary one: its changes are tried on a clone that is divided, too ([`divided`]).

mod careful;
mod divided;
mod likeness;
mod lock;
mod observe;
mod observed;
mod others;
mod part_key;
mod part_reference;
mod step;
mod stepwise;
mod verdict;

pub use lock::Lock;
pub use observe::{observe, observe_within};
pub use observed::{Gain, Observed, Other};
pub use part_key::PartKey;
pub use part_reference::{PartReference, Referring};
pub use step::{Does, How, Step};
pub use stepwise::rows_cannot_be_filled;
pub use verdict::{Verdict, Way};

use super::Request;
use crate::catalog::Carried;

/// What was found out of a change as typed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Trial {
    pub observed: Observed,
    pub verdict: Verdict,
    /// In place, one statement after the other, with what each does: as typed, or in careful steps where
    /// those are better. Empty where there is no such way.
    pub steps: Vec<Step>,
}

impl Trial {
    /// What hangs on the table hangs on no clone. Whatever uses a column that goes would go with it (CASCADE),
    /// without a word; with a view, a policy, a trigger over a column PostgreSQL refuses to alter its type. Then
    /// it is not for a way in place; the copy carries the thing, or names it.
    fn keep_what_hangs_on_it(&mut self, carried: &[Carried], request: &Request) {
        let seen = &self.observed;
        let uses =
            |thing: &&Carried, columns: &[i16]| thing.uses.iter().any(|n| columns.contains(n));
        let lost = |columns, what| {
            let thing = carried.iter().find(|thing| uses(thing, columns))?;
            Some(format!("{} {} uses a column {what}", thing.kind, thing.name))
        };
        let why = lost(&seen.dropped, "that the change drops")
            .or_else(|| {
                lost(
                    &seen.retyped,
                    "whose type the change alters: PostgreSQL refuses that in place",
                )
            })
            .or_else(|| {
                seen.moved.then(|| "it would have another name, schema or owner".to_owned())
            })
            // Foreign keys of other tables, and views that need a constraint.
            .or_else(|| {
                let why = "CASCADE would take along whatever hangs on what goes, without a word";
                request.cascades().then(|| why.to_owned())
            });
        if let Some(why) = why {
            self.copy_instead(why);
        }
    }

    fn copy_instead(&mut self, why: String) {
        self.verdict = Verdict { way: Way::ShadowCopy, why };
        self.steps.clear();
    }
}
