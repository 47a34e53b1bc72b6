//! What is seen of a run: a thread of its own turns samples into the progress line, the log, the summary, and
//! what whoever asks over HTTP is told. Nothing that does the work ever waits for it.

mod facts;
mod http;
mod line;
mod metrics;
mod sample;
mod timing;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use facts::Facts;
pub use http::Listener;
use line::Line;
pub(crate) use line::thousands;
pub use sample::{Ahead, Held, Meter, Pressure, Sample, Slot, Speed, Standby, Timed, Waits};
pub use timing::Times;
use timing::Timings;

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// The thread.
pub struct Telemetry {
    meter: Meter,
    thread: JoinHandle<Summary>,
    board: Board,
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

/// What is known by now, for others to read. Held for moments only.
#[derive(Clone)]
struct Board(Arc<Mutex<Facts>>);

impl Board {
    fn put_up(&self, facts: &Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts.clone();
    }

    fn read(&self) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Telemetry {
    /// Starts the thread for the migration of `table`.
    pub fn start(table: &str, show: Show) -> Self {
        let (sender, receiver) = unbounded();
        let facts = Facts::new(table);
        let board = Board(Arc::new(Mutex::new(facts.clone())));
        let thread = {
            let board = board.clone();
            std::thread::spawn(move || collect(&receiver, facts, Line::new(show), &board))
        };
        Telemetry { meter: Meter::new(sender), thread, board }
    }

    /// Where samples go.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Tells whoever asks at `listener`, on a thread of its own, until the process ends.
    pub fn answer(&self, listener: Listener) {
        self.meter.note(format!("{listener} answers GET /metrics, /status and /health"));
        listener.answer(self.board.clone());
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

fn collect(samples: &Receiver<Sample>, mut facts: Facts, mut line: Line, board: &Board) -> Summary {
    let mut timings = Timings::new();
    let mut drawn = Instant::now();
    loop {
        match samples.recv_timeout(REDRAW) {
            Ok(Sample::Phase(END)) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Sample::Note(text)) => line.note(&text, &facts),
            Ok(Sample::Ahead(ahead)) => line.ahead(&ahead, &facts),
            Ok(sample) => {
                if let Sample::Took(what, took) = sample {
                    timings.record(what, took);
                }
                let is_new_phase = matches!(sample, Sample::Phase(_));
                facts.take(sample);
                if is_new_phase {
                    line.enter(&facts);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if drawn.elapsed() >= REDRAW {
            facts.refresh();
            line.draw(&facts);
            board.put_up(&facts);
            drawn = Instant::now();
        }
    }
    facts.end_phase();
    line.end();
    Summary {
        rows_copied: facts.rows_copied,
        chunks: facts.chunks,
        phases: facts.phases,
        times: Timed::ALL.map(|what| (what, timings.of(what))).to_vec(),
    }
}
