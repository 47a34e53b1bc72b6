//! One connection through the proxy: two sockets, and in each direction a reader that takes whole
//! messages and a writer that passes them on when no fault says otherwise.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::faults::{Fate, Present, Shared, Strikes, Toward, When, strike};
use super::wire::{self, Answered, Asked, Milestone, Request, Start};

/// How many pieces wait between reader and writer before the sender of them has to.
const WAITING: usize = 64;
/// How much is read at once.
const ROOM: usize = 1 << 16;

/// How long to wait where a limit lets nothing pass.
const FULL: Duration = Duration::from_millis(2);

/// A connection, known to the faults for as long as this lives.
pub(super) struct Link {
    shared: Arc<Shared>,
    id: u64,
    /// What the server has not answered yet, in order; with the fault that takes the answer.
    unanswered: Mutex<VecDeque<(Request, Option<Strikes>)>>,
}

/// A piece on its way, when it is due, and whom to tell that it was late.
struct Due<T>(T, Instant, Option<Strikes>);

impl Drop for Link {
    fn drop(&mut self) {
        let gone = self.shared.change(|state| {
            let at = state.links.iter().position(|link| link.id == self.id)?;
            Some(state.links.remove(at))
        });
        if let Some((_, Some(strikes))) = gone.and_then(|link| link.fate) {
            strike(&strikes);
        }
    }
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>) -> Link {
        let id = shared.change(|state| {
            let id = state.new_id();
            state.links.push(Present { id, name: String::new(), ready: false, fate: None });
            id
        });
        Link { shared, id, unanswered: Mutex::default() }
    }

    /// Serves the connection to its end, or to the end a fault has for it.
    pub(super) async fn serve(self, mut client: TcpStream, server_port: u16) {
        let mut server = None;
        let fate = tokio::select! {
            biased;
            fate = self.doomed() => Some(fate),
            end = self.pass_on(&mut client, &mut server, server_port) => {
                if let Err(e) = end {
                    eprintln!("the proxy gave up a connection: {e}");
                }
                None
            }
        };
        if fate == Some(Fate::Reset) {
            for socket in [Some(&client), server.as_ref()].into_iter().flatten() {
                socket.set_zero_linger().ok();
            }
        }
        // Both sockets are closed before anybody hears of it, from Link's drop.
        drop((client, server));
    }

    async fn doomed(&self) -> Fate {
        self.shared.until(|state| state.link(self.id)?.fate.as_ref().map(|(fate, _)| *fate)).await
    }

    fn doom(&self, strikes: Strikes) {
        self.shared.change(|state| {
            if let Some(link) = state.link(self.id) {
                link.fate = Some((Fate::Cut, Some(strikes)));
            }
        });
    }

    async fn pass_on(
        &self,
        client: &mut TcpStream,
        server: &mut Option<TcpStream>,
        server_port: u16,
    ) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut input = BytesMut::new();
        let Some((packet, is_cancel)) = self.start(client, &mut input).await? else {
            return Ok(());
        };
        self.open_gate().await;
        let server =
            server.insert(super::socket()?.connect(([127, 0, 0, 1], server_port).into()).await?);
        server.set_nodelay(true)?;
        if is_cancel {
            // The server closes the connection when it has sent the signal.
            server.write_all(&packet).await?;
            server.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (asked, asked_out) = mpsc::channel(WAITING);
        let (answered, answered_out) = mpsc::channel(WAITING);
        let first = Asked { bytes: packet, request: Some(Request::Session), ..Asked::default() };
        self.queue(&asked, first).await;
        tokio::join!(
            self.read(from_client, input, asked, wire::take_asked),
            self.ask(asked_out, to_server),
            self.read(from_server, BytesMut::new(), answered, wire::take_answered),
            self.answer(answered_out, to_client),
        );
        Ok(())
    }

    /// The packet that says who connects, or that something is to be cancelled.
    async fn start(
        &self,
        client: &mut TcpStream,
        input: &mut BytesMut,
    ) -> io::Result<Option<(Bytes, bool)>> {
        loop {
            match wire::take_start(input).map_err(io::Error::other)? {
                Some(Start::Encryption) => {
                    self.open_gate().await;
                    client.write_all(b"N").await?;
                }
                Some(Start::Cancel(packet)) => {
                    self.name("cancel".into());
                    return Ok(Some((packet, true)));
                }
                Some(Start::Session { application_name, packet }) => {
                    self.name(application_name);
                    return Ok(Some((packet, false)));
                }
                None if client.read_buf(input).await? == 0 => return Ok(None),
                None => {}
            }
        }
    }

    fn name(&self, name: String) {
        self.shared.change(|state| {
            if let Some(link) = state.link(self.id) {
                link.name = name;
            }
        });
    }

    /// Reads to the end. A connection that broke has ended as well: the other side is told by the
    /// end of what it reads.
    async fn read<T>(
        &self,
        mut from: ReadHalf<'_>,
        mut input: BytesMut,
        to: mpsc::Sender<Due<T>>,
        take: fn(&mut BytesMut) -> Option<T>,
    ) {
        loop {
            while let Some(piece) = take(&mut input) {
                self.queue(&to, piece).await;
            }
            input.reserve(ROOM);
            if !from.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
                return;
            }
        }
    }

    async fn queue<T>(&self, to: &mpsc::Sender<Due<T>>, piece: T) {
        let (due, late) = match self.shared.lock().delay(self.id) {
            Some((delay, strikes)) => (Instant::now() + delay, Some(strikes)),
            None => (Instant::now(), None),
        };
        // The writer takes everything, also when it has nowhere to put it.
        to.send(Due(piece, due, late)).await.ok();
    }

    /// Passes on what the client asks.
    async fn ask(&self, mut pieces: mpsc::Receiver<Due<Asked>>, mut to: WriteHalf<'_>) {
        while let Some(Due(asked, due, late)) = pieces.recv().await {
            sleep_until(due).await;
            self.open_gate().await;
            late.iter().for_each(strike);
            let lost = match self.cut_for(&asked) {
                Some((When::Before, strikes)) => {
                    self.doom(strikes);
                    return std::future::pending().await;
                }
                Some((When::After, strikes)) => Some(strikes),
                None => None,
            };
            if let Some(request) = asked.request {
                self.unanswered.lock().unwrap().push_back((request, lost));
            }
            self.write(&mut to, Toward::Server, &asked.bytes).await;
        }
        self.open_gate().await;
        to.shutdown().await.ok();
    }

    /// The fault that waited for this; those who wait for a statement are told of it.
    fn cut_for(&self, asked: &Asked) -> Option<(When, Strikes)> {
        let mut state = self.shared.lock();
        let name = state.link(self.id)?.name.clone();
        state.notice(&name, &asked.statements);
        match &asked.request {
            Some(Request::Query(text)) => state.take_cut(&name, text),
            _ => None,
        }
    }

    /// Passes on what the server answers, but for the answer that is to be lost.
    async fn answer(&self, mut pieces: mpsc::Receiver<Due<Answered>>, mut to: WriteHalf<'_>) {
        while let Some(Due(answered, due, late)) = pieces.recv().await {
            sleep_until(due).await;
            match (self.lost_answer(), answered.milestone) {
                (Some(strikes), Some(_)) => {
                    self.doom(strikes);
                    return std::future::pending().await;
                }
                (Some(_), None) => continue,
                (None, _) => {}
            }
            self.open_gate().await;
            late.iter().for_each(strike);
            self.write(&mut to, Toward::Client, &answered.bytes).await;
            self.note(answered.milestone);
        }
        // A server that ends instead of answering has done what it will do.
        let lost = self.unanswered.lock().unwrap().drain(..).find_map(|(_, lost)| lost);
        if let Some(strikes) = lost {
            self.doom(strikes);
            return std::future::pending().await;
        }
        self.open_gate().await;
        to.shutdown().await.ok();
    }

    /// The fault that takes what the server says now.
    fn lost_answer(&self) -> Option<Strikes> {
        self.unanswered.lock().unwrap().front().and_then(|(_, lost)| lost.clone())
    }

    fn note(&self, milestone: Option<Milestone>) {
        let mut unanswered = self.unanswered.lock().unwrap();
        match milestone {
            Some(Milestone::Ready) => {
                if let Some((Request::Session, _)) = unanswered.pop_front() {
                    self.shared.change(|state| {
                        if let Some(link) = state.link(self.id) {
                            link.ready = true;
                        }
                    });
                }
            }
            // The Sync that came with a COPY is skipped by the server: another one ends the rows.
            Some(Milestone::CopyIn) if matches!(unanswered.front(), Some((Request::Sync, _))) => {
                unanswered.pop_front();
            }
            _ => {}
        }
    }

    async fn open_gate(&self) {
        self.shared.until(|state| (!state.holds_back(self.id)).then_some(())).await;
    }

    /// Writes, unless the other side is gone: then there is nobody to write to.
    async fn write(&self, to: &mut WriteHalf<'_>, toward: Toward, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.open_gate().await;
            if to.writable().await.is_err() {
                return;
            }
            // Under the lock, so that no fault comes between the look and the write.
            let written = {
                let mut state = self.shared.lock();
                if state.holds_back(self.id) {
                    continue;
                }
                state.limited(self.id, toward, bytes, |some| to.try_write(some))
            };
            match written {
                Ok(0) => sleep(FULL).await,
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
