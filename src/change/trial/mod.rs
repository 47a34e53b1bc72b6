//! What PostgreSQL would do if the change were a plain ALTER TABLE: asked of it, on an empty clone of the
//! table in a transaction that is rolled back.
//!
//! Whether the table gets a new file, which indexes are built, whether rows are read, and which locks are
//! taken, is decided by the catalogs and not by the rows: an empty clone that has the table's columns,
//! constraints, indexes and foreign keys is treated as the table would be. So the answer is that of the
//! server's own version ([`observe`]); what follows from it is a pure function ([`verdict`]).

mod careful;
mod lock;
mod observe;
mod observed;
mod verdict;

pub use careful::Step;
pub use lock::Lock;
pub use observe::{observe, observe_within};
pub use observed::{Gain, Observed, Other};
pub use verdict::{Verdict, Way};

/// What was found out of a change as typed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Trial {
    pub observed: Observed,
    pub verdict: Verdict,
    /// In place, one statement after the other, with what each does: as typed, or in careful steps where
    /// those are better. Empty where there is no such way.
    pub steps: Vec<Step>,
}
