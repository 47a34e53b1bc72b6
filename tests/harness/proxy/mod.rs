//! A proxy between the program and the server of a test that does harm on request.
//!
//! It knows connections by their role, the end of their application name: `pgwraith/12/copy 1` is
//! `copy 1`. In a pattern of roles `*` stands for any text. What is called a *present* connection
//! has reached the proxy; one that has not yet said who it is has the role of the empty text.
//!
//! It runs on the test's runtime: a test that blocks its only thread blocks the proxy as well.
//! While the server is down a connection is accepted and then closed, not refused as the server's
//! own port would.

mod bucket;
mod faults;
mod link;
mod pattern;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

use bucket::Bucket;
use faults::{Fate, Kind, Shared};
pub use faults::{Fault, Toward, When};
use link::Link;
use pattern::Pattern;

/// The proxy. Dropping it ends every connection through it.
pub struct Proxy {
    port: u16,
    server: Arc<AtomicU16>,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The tasks of the connections belong to it.
        self.acceptor.abort();
    }
}

impl Proxy {
    /// A proxy before the server that listens on `server_port` of 127.0.0.1.
    pub async fn start(server_port: u16) -> Proxy {
        let listener = listen().expect("a port for the proxy");
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(AtomicU16::new(server_port));
        let shared = Shared::new();
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&server), Arc::clone(&shared)));
        Proxy { port, server, shared, acceptor }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same connection string, through the proxy.
    pub fn dsn(&self, dsn: &str) -> String {
        let server = self.server.load(Ordering::Relaxed);
        through(dsn, server, self.port)
            .unwrap_or_else(|| panic!("{dsn} does not lead to port {server}, behind the proxy"))
    }

    /// New connections lead to another server from now on, as after a failover.
    pub fn lead_to(&self, server_port: u16) {
        self.server.store(server_port, Ordering::Relaxed);
    }

    /// The application names of the connections that are present.
    pub fn names(&self) -> Vec<String> {
        self.shared.lock().links.iter().map(|link| link.name.clone()).collect()
    }

    /// Waits until the server has let in a connection of this role.
    pub async fn connected(&self, role_pattern: &str) {
        let pattern = Pattern::new(role_pattern);
        let is_there = |state: &mut faults::State| {
            state.links.iter().any(|link| link.ready && pattern.fits(&link.name)).then_some(())
        };
        self.shared.soon(&format!("{role_pattern:?} connects"), is_there).await;
    }

    /// Strikes whenever a connection of this role sends a statement, simple or to be prepared, that
    /// contains `text`. Does no harm.
    pub fn notice(&self, role_pattern: &str, text: &str) -> Fault {
        let what = format!("the notice of {text:?} from {role_pattern:?}");
        self.shared.rule(role_pattern, Kind::Notice { text: text.into() }, what)
    }

    /// Closes both sides of the present connections of this role; how many there were. They are
    /// closed when this returns.
    pub async fn cut(&self, role_pattern: &str) -> usize {
        self.end(role_pattern, Fate::Cut).await
    }

    /// The same, with a reset: each side is told that the connection broke.
    pub async fn reset(&self, role_pattern: &str) -> usize {
        self.end(role_pattern, Fate::Reset).await
    }

    async fn end(&self, role_pattern: &str, fate: Fate) -> usize {
        let pattern = Pattern::new(role_pattern);
        let ended: Vec<u64> = self.shared.change(|state| {
            let meant = state.links.iter_mut().filter(|link| pattern.fits(&link.name));
            meant
                .map(|link| {
                    link.fate.get_or_insert((fate, None));
                    link.id
                })
                .collect()
        });
        let gone = |state: &mut faults::State| {
            ended.iter().all(|id| state.link(*id).is_none()).then_some(())
        };
        self.shared.soon(&format!("{role_pattern:?} is cut off"), gone).await;
        ended.len()
    }

    /// Passes nothing on to or from connections of this role, present and new, and keeps it for
    /// later. It has struck when something was held back.
    pub fn stall(&self, role_pattern: &str) -> Fault {
        self.shared.rule(role_pattern, Kind::Stall, format!("the stall of {role_pattern:?}"))
    }

    /// Passes everything on so much later, in each direction. It has struck when something has
    /// arrived late.
    pub fn delay(&self, role_pattern: &str, delay: Duration) -> Fault {
        let what = format!("the delay of {role_pattern:?}");
        self.shared.rule(role_pattern, Kind::Delay(delay), what)
    }

    /// Passes no more than so many bytes a second on to one side of the connections of this role, all of them
    /// together. It has struck when something had to wait for that.
    pub fn limit(&self, role_pattern: &str, toward: Toward, bytes_per_second: u64) -> Fault {
        let what = format!("the limit of {role_pattern:?}");
        let bucket = Bucket::new(bytes_per_second, Instant::now());
        self.shared.rule(role_pattern, Kind::Limit { toward, bucket }, what)
    }

    /// Closes every new connection at once. It has struck when there was one.
    pub fn refuse(&self) -> Fault {
        self.shared.rule("*", Kind::Refuse, "the refusal of connections".into())
    }

    /// Cuts the next connection of this role that sends a simple query that contains
    /// `statement_contains`: before the server gets it, or when the server has answered and nobody
    /// was told. Strikes once, when the connection is closed.
    pub fn cut_at(&self, role_pattern: &str, statement_contains: &str, when: When) -> Fault {
        let what = format!("the cut of {role_pattern:?} at {statement_contains:?}, {when:?}");
        let kind = Kind::CutAt { text: statement_contains.into(), when };
        self.shared.rule(role_pattern, kind, what)
    }
}

async fn accept(listener: TcpListener, server: Arc<AtomicU16>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if shared.lock().refuses() {
            continue;
        }
        let link = Link::new(Arc::clone(&shared));
        connections.spawn(link.serve(client, server.load(Ordering::Relaxed)));
    }
}

/// What waits in the kernel nobody sees, whatever the limits are: no more than this.
const KERNEL_BUFFER: u32 = 64 << 10;

/// A socket of either side; those that are accepted have their listener's buffers.
fn socket() -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    Ok(socket)
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = socket()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(1024)
}

/// `dsn` with its port replaced, as a URI or as keywords.
fn through(dsn: &str, server: u16, proxy: u16) -> Option<String> {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
    [":", "port="].iter().find_map(|before| {
        let port = format!("{before}{server}");
        let at = dsn.find(&port).filter(|at| ends(&dsn[at + port.len()..]))?;
        Some(format!("{}{before}{proxy}{}", &dsn[..at], &dsn[at + port.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::through;

    #[test]
    fn only_the_port_is_replaced() {
        let through = |dsn| through(dsn, 154, 9);
        assert_eq!(through("postgresql://a@h:154/d").as_deref(), Some("postgresql://a@h:9/d"));
        assert_eq!(through("host=h port=154 user=a").as_deref(), Some("host=h port=9 user=a"));
        assert_eq!(through("postgresql://a@h:1543/d"), None);
    }
}
