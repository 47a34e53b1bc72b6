//! One migration from preflight to the swap: its phases, its state in the database, its end.

mod abort;
mod after;
mod begun;
mod beside;
mod catch_up;
mod cleanup;
mod context;
mod copy;
mod end;
mod governor;
mod hooked;
mod in_place;
mod index;
mod instant;
mod left_behind;
mod live;
mod liveness;
mod mark;
mod name;
mod newcomers;
mod planned;
mod prepare;
mod probing;
mod rehearsal;
mod replicas;
mod resume;
mod retry;
mod room;
mod row;
mod run;
mod set;
mod slot;
mod slot_guard;
mod slot_limits;
mod status;
mod store;
mod stretch;
mod supervisor;
mod takeover;
mod teardown;
mod unfinished;
mod verify;
mod voice;
mod watch;
mod watchdog;
mod workers;

pub use abort::{Aborted, AfterSwap, abort};
pub use cleanup::{Leftover, cleanup, leftovers};
pub use copy::CopySettings;
pub use in_place::{Changed, InPlaceDone, Made, Undone};
pub use index::IndexSettings;
pub use live::Live;
pub use planned::{CopyWay, Estimate, PhaseSql, Planned};
pub use rehearsal::{Changes, Extent, Forecast, MAX_SLOT_WAL, Rehearsed, Seen, Span};
pub use resume::{Unfinished, unfinished};
pub use run::{Consent, How, Outcome, Report, Run, Settings};
pub use set::{Notices, set};
pub use status::{AtStep, Disk, Keys, Slot, Status, status};
pub use supervisor::Supervisor;
pub use unfinished::Shadow;

/// Where a migration stands; the `phase` of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Prepare,
    Copy,
    Index,
    CatchUp,
    Verify,
    Cutover,
    /// Of what is altered itself, in steps, from the first of them to the last.
    InPlace,
    Done,
}

impl Phase {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Copy => "copy",
            Phase::Index => "index",
            Phase::CatchUp => "catch up",
            Phase::Verify => "verify",
            Phase::Cutover => "cutover",
            Phase::InPlace => "in place",
            Phase::Done => "done",
        }
    }

    /// The phase stored so.
    fn parse(stored: &str) -> Option<Phase> {
        use Phase::{CatchUp, Copy, Cutover, Done, InPlace, Index, Prepare, Verify};
        let all = [Prepare, Copy, Index, CatchUp, Verify, Cutover, InPlace, Done];
        all.into_iter().find(|phase| phase.as_str() == stored)
    }
}
