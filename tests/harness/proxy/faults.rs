//! The faults that are in force, and what they do to a connection.
//!
//! All of it is behind one lock that is also held for every write to a socket: once a call that makes
//! a fault has returned, not a byte is passed on against it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bucket::Bucket;
use super::pattern::Pattern;

/// Longer than anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// On which side of the server's work a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The server never gets the statement.
    Before,
    /// The server has done it, but its answer is lost.
    After,
}

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    Server,
    Client,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Cut,
    Reset,
}

pub(super) enum Kind {
    Stall,
    Delay(Duration),
    Refuse,
    CutAt { text: String, when: When },
    Notice { text: String },
    Limit { toward: Toward, bucket: Bucket },
}

pub(super) type Strikes = Arc<watch::Sender<usize>>;

/// One more time.
pub(super) fn strike(strikes: &Strikes) {
    strikes.send_modify(|count| *count += 1);
}

struct Rule {
    id: u64,
    pattern: Pattern,
    kind: Kind,
    strikes: Strikes,
}

/// A connection as the faults see it.
pub(super) struct Present {
    pub(super) id: u64,
    pub(super) name: String,
    /// Whether the server has let it in.
    pub(super) ready: bool,
    pub(super) fate: Option<(Fate, Option<Strikes>)>,
}

#[derive(Default)]
pub(super) struct State {
    rules: Vec<Rule>,
    pub(super) links: Vec<Present>,
    last_id: u64,
}

impl State {
    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn link(&mut self, id: u64) -> Option<&mut Present> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    fn rules_for<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| rule.pattern.fits(name))
    }

    /// Whether bytes of this connection are held back; notes that they were.
    pub(super) fn holds_back(&self, id: u64) -> bool {
        let Some(link) = self.links.iter().find(|link| link.id == id) else { return false };
        let mut stalls =
            self.rules_for(&link.name).filter(|rule| matches!(rule.kind, Kind::Stall)).peekable();
        let held = stalls.peek().is_some();
        stalls.for_each(|rule| strike(&rule.strikes));
        held || link.fate.is_some()
    }

    /// How late bytes of this connection are passed on, and who is to know.
    pub(super) fn delay(&self, id: u64) -> Option<(Duration, Strikes)> {
        let link = self.links.iter().find(|link| link.id == id)?;
        let delays = self.rules_for(&link.name).filter_map(|rule| match rule.kind {
            Kind::Delay(delay) => Some((delay, Arc::clone(&rule.strikes))),
            _ => None,
        });
        delays.max_by_key(|(delay, _)| *delay)
    }

    /// Writes as much of `bytes` as the limit of this connection lets pass now; nothing where that is none.
    pub(super) fn limited(
        &mut self,
        id: u64,
        toward: Toward,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let name = self.link(id).map(|link| link.name.clone()).unwrap_or_default();
        let limit = self.rules.iter_mut().find_map(|rule| match &mut rule.kind {
            Kind::Limit { toward: side, bucket } if *side == toward && rule.pattern.fits(&name) => {
                Some((bucket, &rule.strikes))
            }
            _ => None,
        });
        let Some((bucket, strikes)) = limit else { return write(bytes) };
        let passes = bucket.take(bytes.len(), Instant::now());
        if passes == 0 {
            strike(strikes);
            return Ok(0);
        }
        let written = write(&bytes[..passes]);
        bucket.give_back(passes - *written.as_ref().unwrap_or(&0));
        written
    }

    /// Whether a new connection is turned away.
    pub(super) fn refuses(&self) -> bool {
        let mut refusing = false;
        for rule in self.rules.iter().filter(|rule| matches!(rule.kind, Kind::Refuse)) {
            strike(&rule.strikes);
            refusing = true;
        }
        refusing
    }

    /// Tells those who wait for a statement.
    pub(super) fn notice(&self, name: &str, statements: &[String]) {
        for rule in self.rules_for(name) {
            if let Kind::Notice { text } = &rule.kind {
                let seen = statements.iter().filter(|statement| statement.contains(text));
                seen.for_each(|_| strike(&rule.strikes));
            }
        }
    }

    /// The fault that waits for this very query. It strikes once and is gone.
    pub(super) fn take_cut(&mut self, name: &str, query: &str) -> Option<(When, Strikes)> {
        let at = self.rules.iter().position(|rule| {
            let waits = matches!(&rule.kind, Kind::CutAt { text, .. } if query.contains(text));
            waits && rule.pattern.fits(name)
        })?;
        let Rule { kind: Kind::CutAt { when, .. }, strikes, .. } = self.rules.remove(at) else {
            unreachable!("it was found by its kind");
        };
        Some((when, strikes))
    }
}

/// The state, and a bell that rings whenever it changes.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new() -> Arc<Shared> {
        Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(()) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state.
    pub(super) fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let result = how(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Waits until the state gives a value.
    pub(super) async fn until<T>(&self, mut ask: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(value) = ask(&mut self.lock()) {
                return value;
            }
            changed.changed().await.expect("the sender is in self");
        }
    }

    pub(super) fn rule(self: &Arc<Self>, pattern: &str, kind: Kind, what: String) -> Fault {
        let strikes: Strikes = Arc::new(watch::Sender::new(0));
        let pattern = Pattern::new(pattern);
        let id = self.change(|state| {
            let id = state.new_id();
            state.rules.push(Rule { id, pattern, kind, strikes: Arc::clone(&strikes) });
            id
        });
        Fault { id, what, strikes, shared: Arc::clone(self) }
    }
}

/// A fault, for as long as this is held. One that strikes once may be dropped after it.
#[must_use = "a fault ends when it is dropped"]
pub struct Fault {
    id: u64,
    what: String,
    strikes: Strikes,
    shared: Arc<Shared>,
}

impl Fault {
    /// Waits until it has struck.
    pub async fn struck(&self) {
        self.struck_times(1).await;
    }

    /// Waits until it has struck so many times since it began.
    pub async fn struck_times(&self, times: usize) {
        let mut strikes = self.strikes.subscribe();
        let waited = tokio::time::timeout(LIMIT, strikes.wait_for(|count| *count >= times)).await;
        if waited.is_err() {
            panic!("{} did not strike within {LIMIT:?}; {}", self.what, self.shared.present());
        }
    }

    /// How often it has struck.
    pub fn count(&self) -> usize {
        *self.strikes.borrow()
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.shared.change(|state| state.rules.retain(|rule| rule.id != self.id));
    }
}

impl Shared {
    /// Who is connected, for messages.
    pub(super) fn present(&self) -> String {
        let names: Vec<String> =
            self.lock().links.iter().map(|link| format!("{:?}", link.name)).collect();
        format!("connected are: [{}]", names.join(", "))
    }

    /// The same as [`Shared::until`], with an end.
    pub(super) async fn soon<T>(&self, what: &str, ask: impl FnMut(&mut State) -> Option<T>) -> T {
        match tokio::time::timeout(LIMIT, self.until(ask)).await {
            Ok(value) => value,
            Err(_) => panic!("waited {LIMIT:?} in vain: {what}; {}", self.present()),
        }
    }
}
