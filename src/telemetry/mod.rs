//! What is seen of a run: a thread of its own turns samples into the progress line and the summary.
//! Nothing that does the work ever waits for it.

mod line;
mod sample;
mod timing;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use line::Line;
pub use sample::{Meter, Sample, Timed};
pub use timing::Times;
use timing::Timings;

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// The thread.
pub struct Telemetry {
    meter: Meter,
    thread: JoinHandle<Summary>,
}

/// What the samples add up to.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    pub rows_copied: u64,
    pub chunks: u64,
    /// Phases in order with their seconds.
    pub phases: Vec<(&'static str, f64)>,
    /// How long each kind of thing took.
    pub times: Vec<(Timed, Times)>,
}

/// How the run is shown while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// A line that is redrawn on a terminal, plain lines elsewhere.
    Progress,
    /// Nothing but notes.
    Quiet,
}

impl Telemetry {
    /// Starts the thread for the migration of `table`.
    pub fn start(table: &str, show: Show) -> Self {
        let (sender, receiver) = unbounded();
        let line = Line::new(table, show);
        let thread = std::thread::spawn(move || collect(&receiver, line));
        Telemetry { meter: Meter(sender), thread }
    }

    /// Where samples go.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Ends the thread once every meter is gone or silent, and sums up.
    pub fn finish(self) -> Summary {
        self.meter.tell(Sample::Phase(END));
        drop(self.meter);
        self.thread.join().unwrap_or_default()
    }
}

/// Marks the end of the samples.
const END: &str = "";

struct Collected {
    summary: Summary,
    timings: Timings,
    current: Option<(&'static str, Instant)>,
    rows_expected: u64,
    rows_before: u64,
    rows_compared: u64,
    dirty: (u64, u64),
}

fn collect(samples: &Receiver<Sample>, mut line: Line) -> Summary {
    let mut state = Collected {
        summary: Summary::default(),
        timings: Timings::new(),
        current: None,
        rows_expected: 0,
        rows_before: 0,
        rows_compared: 0,
        dirty: (0, 0),
    };
    let mut drawn = Instant::now();
    loop {
        match samples.recv_timeout(REDRAW) {
            Ok(Sample::Phase(END)) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Sample::Note(text)) => line.note(&text),
            Ok(sample) => state.take(sample),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if drawn.elapsed() >= REDRAW {
            line.draw(&state);
            drawn = Instant::now();
        }
    }
    state.end_phase();
    line.end();
    state.summary.times = Timed::ALL.map(|what| (what, state.timings.of(what))).to_vec();
    state.summary
}

impl Collected {
    fn take(&mut self, sample: Sample) {
        match sample {
            Sample::Phase(name) => {
                self.end_phase();
                self.current = Some((name, Instant::now()));
            }
            Sample::Rows(rows) => self.rows_expected = rows,
            Sample::CopiedBefore(rows) => {
                self.rows_before = rows - self.summary.rows_copied.min(rows)
            }
            Sample::Copied(rows) => {
                self.summary.rows_copied += rows;
                self.summary.chunks += 1;
            }
            Sample::Took(what, took) => self.timings.record(what, took),
            Sample::Compared(rows) => self.rows_compared += rows,
            Sample::Dirty(backlog, synced) => self.dirty = (backlog, synced),
            Sample::Note(_) => {}
        }
    }

    fn end_phase(&mut self) {
        if let Some((name, since)) = self.current.take() {
            self.summary.phases.push((name, since.elapsed().as_secs_f64()));
        }
    }
}
