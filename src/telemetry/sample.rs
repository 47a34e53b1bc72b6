//! What is told of a run, one fact at a time.

use std::time::Duration;

use crossbeam_channel::Sender;

/// One fact about the run.
#[derive(Debug)]
pub enum Sample {
    /// A phase began.
    Phase(&'static str),
    /// The table has about so many rows.
    Rows(u64),
    /// So many rows were copied by runs before.
    CopiedBefore(u64),
    /// A range of so many rows was copied.
    Copied(u64),
    /// So many rows were compared, and equal.
    Compared(u64),
    /// Keys waiting to be synced, keys synced so far.
    Dirty(u64, u64),
    /// How long something took.
    Took(Timed, Duration),
    /// Something to tell, once.
    Note(String),
}

/// What is timed, each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// A range copied, from its BEGIN to its COMMIT.
    Chunk,
    /// A batch of changed keys applied.
    Sync,
    /// A range compared on both sides.
    Verify,
    /// From writing a message to the log until the stream brought it.
    Fence,
    /// An attempt of the cutover: from the first lock request to COMMIT, or to ROLLBACK where it was given up.
    Stall,
}

impl Timed {
    /// All, in the order in which they are shown.
    pub const ALL: [Timed; 5] =
        [Timed::Chunk, Timed::Sync, Timed::Verify, Timed::Fence, Timed::Stall];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Timed::Chunk => "chunk",
            Timed::Sync => "sync",
            Timed::Verify => "verify",
            Timed::Fence => "fence",
            Timed::Stall => "stall",
        }
    }
}

/// Where samples go. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct Meter(pub(super) Sender<Sample>);

impl Meter {
    /// Hands a sample over; after the end of the run it goes nowhere.
    pub fn tell(&self, sample: Sample) {
        let _ = self.0.send(sample);
    }

    /// Tells something once.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(Sample::Note(text.into()));
    }

    /// Tells how long something took.
    pub fn took(&self, what: Timed, took: Duration) {
        self.tell(Sample::Took(what, took));
    }
}
