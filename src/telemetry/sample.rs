//! What is told of a run, one fact at a time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::say::{bytes, time};

/// One fact about the run.
#[derive(Debug)]
pub enum Sample {
    /// A phase began.
    Phase(&'static str),
    /// The table has about so many rows.
    Rows(u64),
    /// So many rows were copied by runs before.
    CopiedBefore(u64),
    /// A range of so many rows was copied, the one of this number.
    Copied(u64, i64),
    /// So many rows were compared, and equal.
    Compared(u64),
    /// So many rows differed.
    Differ(u64),
    /// Keys waiting to be synced, keys synced so far.
    Dirty(u64, u64),
    /// How long something took.
    Took(Timed, Duration),
    /// How fast it may go, and why.
    Speed(Box<Speed>),
    /// What our slot holds back.
    Slot(Slot),
    /// Who waits for whom; None where nobody looks any more.
    Watched(Option<Waits>),
    /// Why it does not work now and goes on later; None where it goes on.
    Rests(Option<String>),
    /// What the swap, or a short step in place, waits for; None where it waits for nothing.
    LockWaits(Option<String>),
    /// Verification begins once more: what it had compared does not count.
    ComparedAnew,
    /// What comes next and cannot be paused.
    Ahead(Ahead),
    /// Something to tell, once.
    Note(String),
}

/// What comes next and cannot be paused.
#[derive(Debug, Clone)]
pub struct Ahead {
    pub what: String,
    /// About how long it takes; None where nobody knows.
    pub took: Option<Duration>,
    /// About how many bytes of WAL it writes.
    pub wal: u64,
    /// And at most, where that is far from it.
    pub more: Option<u64>,
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |n: u64| bytes(i64::try_from(n).unwrap_or(i64::MAX));
        write!(f, "next: {}, ", self.what)?;
        match self.took {
            Some(took) => write!(f, "about {}, ", time(took.as_secs_f64()))?,
            None => f.write_str("for a time that is not known, ")?,
        }
        write!(f, "about {} of WAL", size(self.wal))?;
        if let Some(more) = self.more {
            write!(f, ", or up to {} where hint bits are logged", size(more))?;
        }
        f.write_str("; it cannot be paused")
    }
}

/// How fast the run may go.
#[derive(Debug, Clone)]
pub struct Speed {
    pub workers: usize,
    /// The share of the time that each may work.
    pub duty: f64,
    pub held: Held,
    /// Why, for people.
    pub reason: String,
    pub pressures: Vec<Pressure>,
    pub standbys: Vec<Standby>,
    pub paused: bool,
    pub postponed: bool,
}

/// What holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Free,
    /// A signal is near its limit: it is slower.
    HeldBack,
    /// A signal is over its limit: it rests.
    Stopped,
    /// A signal cannot be measured: it rests.
    Blind,
    /// The operator has it rest.
    Paused,
}

impl Held {
    /// All of them.
    pub const ALL: [Held; 5] =
        [Held::Free, Held::HeldBack, Held::Stopped, Held::Blind, Held::Paused];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Held::Free => "free",
            Held::HeldBack => "held_back",
            Held::Stopped => "stopped",
            Held::Blind => "blind",
            Held::Paused => "paused",
        }
    }
}

/// A signal, as a share of its limit; None where it cannot be measured.
#[derive(Debug, Clone)]
pub struct Pressure {
    pub signal: String,
    pub share: Option<f64>,
}

/// How far a standby is behind.
#[derive(Debug, Clone)]
pub struct Standby {
    pub name: String,
    pub lag: Duration,
    pub bytes: u64,
}

/// What our slot holds back.
#[derive(Debug, Clone)]
pub struct Slot {
    pub name: String,
    pub retained: u64,
    /// Bytes until the server gives it up; None is without limit.
    pub safe: Option<i64>,
    pub lost: bool,
}

/// Who waits for locks.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// Sessions of ours.
    pub ours: u64,
    /// Others, that wait for ours.
    pub others: u64,
    /// Waits of ours that have lasted so long that somebody should look. Without the text of queries: this is
    /// shown to whoever asks.
    pub long: Vec<String>,
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
    /// A read by the key, as the application reads.
    Probe,
    /// An attempt of the cutover: from the first lock request to COMMIT, or to ROLLBACK where it was given up.
    Stall,
}

impl Timed {
    /// All, in the order in which they are shown.
    pub const ALL: [Timed; 6] =
        [Timed::Chunk, Timed::Sync, Timed::Verify, Timed::Fence, Timed::Probe, Timed::Stall];

    /// What one is, in a sentence.
    pub fn told(self) -> &'static str {
        match self {
            Timed::Chunk => "range copied",
            Timed::Sync => "batch of changed keys",
            Timed::Verify => "range compared",
            Timed::Fence => "fence, from the log to the stream,",
            Timed::Probe => "read by the key",
            Timed::Stall => "attempt of the cutover, from its first lock request,",
        }
    }

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Timed::Chunk => "chunk",
            Timed::Sync => "sync",
            Timed::Verify => "verify",
            Timed::Fence => "fence",
            Timed::Probe => "probe",
            Timed::Stall => "stall",
        }
    }
}

/// Where samples go. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct Meter {
    samples: Sender<Sample>,
    /// What the swap waits for, for whoever keeps that in the state.
    lock_waits: Arc<Mutex<Option<String>>>,
}

impl Meter {
    pub(super) fn new(samples: Sender<Sample>) -> Self {
        Meter { samples, lock_waits: Arc::default() }
    }

    /// Hands a sample over; after the end of the run it goes nowhere.
    pub fn tell(&self, sample: Sample) {
        let _ = self.samples.send(sample);
    }

    /// Tells something once.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(Sample::Note(text.into()));
    }

    /// What the swap waits for from now on, or that it does not any more.
    pub fn lock_waits(&self, why: Option<&str>) {
        let why = why.map(str::to_owned);
        self.lock_waits.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&why);
        self.tell(Sample::LockWaits(why));
    }

    /// What it waits for now.
    pub fn waits_for(&self) -> Option<String> {
        self.lock_waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells how long something took.
    pub fn took(&self, what: Timed, took: Duration) {
        self.tell(Sample::Took(what, took));
    }
}
