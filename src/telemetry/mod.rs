//! What is seen of a run: a thread of its own turns samples into the progress line and the summary.
//! Nothing that does the work ever waits for it.

mod line;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use hdrhistogram::Histogram;

use line::Line;
pub(crate) use line::thousands;

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// One fact about the run.
#[derive(Debug)]
pub enum Sample {
    /// A phase began.
    Phase(&'static str),
    /// The table has about so many rows.
    Rows(u64),
    /// So many rows were copied by runs before.
    CopiedBefore(u64),
    /// A range of so many rows was copied, in so long.
    Copied(u64, Duration),
    /// So many rows were compared.
    Compared(u64),
    /// Keys waiting to be synced, keys synced so far.
    Dirty(u64, u64),
    /// Something to tell, once.
    Note(String),
}

/// Where samples go. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct Meter(Sender<Sample>);

impl Meter {
    /// Hands a sample over; after the end of the run it goes nowhere.
    pub fn tell(&self, sample: Sample) {
        let _ = self.0.send(sample);
    }

    /// Tells something once.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(Sample::Note(text.into()));
    }
}

/// The thread.
pub struct Telemetry {
    meter: Meter,
    thread: JoinHandle<Summary>,
}

/// What the samples add up to.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Summary {
    pub rows_copied: u64,
    pub chunks: u64,
    pub chunk_p50_ms: f64,
    pub chunk_p99_ms: f64,
    /// Phases in order with their seconds.
    pub phases: Vec<(&'static str, f64)>,
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
    chunk_micros: Option<Histogram<u64>>,
    current: Option<(&'static str, Instant)>,
    rows_expected: u64,
    rows_before: u64,
    rows_compared: u64,
    dirty: (u64, u64),
}

fn collect(samples: &Receiver<Sample>, mut line: Line) -> Summary {
    let mut state = Collected {
        summary: Summary::default(),
        chunk_micros: Histogram::new_with_bounds(1, 3_600_000_000, 3).ok(),
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
    if let Some(chunks) = &state.chunk_micros {
        state.summary.chunk_p50_ms = chunks.value_at_quantile(0.5) as f64 / 1000.0;
        state.summary.chunk_p99_ms = chunks.value_at_quantile(0.99) as f64 / 1000.0;
    }
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
            Sample::Copied(rows, took) => {
                self.summary.rows_copied += rows;
                self.summary.chunks += 1;
                if let Some(chunks) = &mut self.chunk_micros {
                    chunks.saturating_record(took.as_micros().max(1) as u64);
                }
            }
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
