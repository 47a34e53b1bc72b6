//! Places where the process can be made to die at once, as by SIGKILL: before and after every change of
//! the state. Compiled only with the feature `failpoints`; chosen by the environment variable
//! `FAILPOINTS`, `name=return` or `name=3*off->return` for the fourth time (crate `fail`).

/// Dies here, where the environment says so.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| $crate::failpoint::die());
    };
}
pub(crate) use failpoint;

/// Every failpoint, in the order in which a run comes by.
#[cfg(feature = "failpoints")]
pub const ALL: &[&str] = &[
    "begun",
    "flow recorded",
    "publication made",
    "slot made",
    "slot recorded",
    "shadow made",
    "writers waited for",
    "phase entered",
    "chunk recorded",
    "chunk copied",
    "chunk committed",
    "index built",
    "index attached",
    "batch synced",
    "batch committed",
    "position stored",
    "position confirmed",
    "full sync committed",
    "vacuumed",
    "range recorded",
    "cutover ready",
    "cutover locked",
    "cutover renamed",
    "cutover committed",
    "slot dropped",
    "publication dropped",
    "step done",
    "step recorded",
    "finished",
];

/// Those that a resumed run comes by besides, where it makes a lost slot anew.
#[cfg(feature = "failpoints")]
pub const OF_RECOVERY: &[&str] =
    &["epoch raised", "marked unproven", "lost slot dropped", "slot made", "slot recorded"];

/// Those that a run comes by where its indexes are there before the copy, and rows clash in them.
#[cfg(feature = "failpoints")]
pub const OF_INDEXES_BEFORE: &[&str] = &[
    "shadow made",
    "index built",
    "index attached",
    "indexes made",
    "clash stored",
    "clash committed",
    "full sync committed",
];

/// Those that a run comes by where memory holds fewer keys than change.
#[cfg(feature = "failpoints")]
pub const OF_SPILLING: &[&str] = &["keys ready", "keys stored", "keys loaded"];

/// Those that a run comes by where its table is truncated.
#[cfg(feature = "failpoints")]
pub const OF_TRUNCATE: &[&str] = &["truncate stored", "truncate ready", "truncate followed"];

/// Those of a change in place.
#[cfg(feature = "failpoints")]
pub const IN_PLACE: &[&str] = &["alter ready", "alter locked", "altered"];

/// Those that a change in careful steps comes by, where it fills rows, reads all of them and builds an index.
#[cfg(feature = "failpoints")]
pub const IN_STEPS: &[&str] = &[
    "in place begun",
    "steps recorded",
    "step begun",
    "alter ready",
    "alter locked",
    "altered",
    "step made",
    "chunk recorded",
    "range filled",
    "fill committed",
    "index made",
    "step read",
    "in place finished",
];

/// Those that a run comes by besides, where its table becomes a partitioned one.
#[cfg(feature = "failpoints")]
pub const OF_PARTITIONS: &[&str] = &["index joined"];

/// Those that a run comes by besides, where rows come that have no partition.
#[cfg(feature = "failpoints")]
pub const OF_ROOM: &[&str] = &["partition made", "partition committed"];

/// Those that a run comes by besides, where rows are copied in the order of an index.
#[cfg(feature = "failpoints")]
pub const OF_ORDER: &[&str] = &["moved rows taken out", "moved rows gone"];

/// Those that a run comes by besides, where a partition comes to its table.
#[cfg(feature = "failpoints")]
pub const OF_NEWCOMERS: &[&str] = &["newcomer stored", "newcomer known"];

/// Those of an abort.
#[cfg(feature = "failpoints")]
pub const OF_ABORT: &[&str] =
    &["epoch raised", "slot dropped", "publication dropped", "shadow dropped"];

/// Reads the environment; what is returned must live as long as the program.
#[cfg(feature = "failpoints")]
pub fn setup() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// No destructor runs, no buffer is written, no connection is closed in good order.
#[cfg(feature = "failpoints")]
pub(crate) fn die() -> ! {
    // SAFETY: getpid and kill take and give plain numbers.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}
