//! One migration from preflight to the swap: its phases, its state in the database, its end.

mod abort;
mod after;
mod catch_up;
mod context;
mod copy;
mod end;
mod index;
mod prepare;
mod run;
mod store;
mod supervisor;
mod teardown;
mod watch;

pub use abort::{Aborted, AfterSwap, abort};
pub use copy::CopySettings;
pub use index::IndexSettings;
pub use run::{Report, Run, Settings};
pub use supervisor::Supervisor;

/// Where a migration stands; the `phase` of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Prepare,
    Copy,
    Index,
    CatchUp,
    Verify,
    Cutover,
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
            Phase::Done => "done",
        }
    }
}
