//! Where the server is and how to get a byte stream to it: TCP or Unix socket, TLS or not.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::error::{Error, Result};

/// One server and who we are to it.
pub struct Endpoint {
    pub address: Address,
    pub user: String,
    pub password: Option<String>,
    pub dbname: String,
    /// TLS is asked for where this is given; a Unix socket never uses it.
    pub tls: Option<Arc<ClientConfig>>,
    /// Refuse a server that cannot do TLS, instead of going on without.
    pub tls_required: bool,
    /// For each address to answer, and again for the talk until the server is ready.
    pub connect_timeout: Option<Duration>,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `addr` spares looking up `host`, which remains the name the certificate is for.
    Tcp { host: String, addr: Option<IpAddr>, port: u16 },
    /// The socket's file.
    Unix { path: PathBuf },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, addr: Some(addr), port } if host.is_empty() => {
                write!(f, "{}", SocketAddr::new(*addr, *port))
            }
            Address::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Address::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}

/// Any byte stream to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// From now on fewer bytes than these wake nobody who waits for them, where the system can do that. 1 wakes for what
    /// has come meanwhile, but not at once: the runtime has to look first, and finds nothing where by then more bytes
    /// are asked for again. So whoever does that looks at [`Io::has_unread`] before.
    fn wakes_for(&self, _bytes: usize) {}

    /// Whether bytes wait in the system. False where that is not known.
    fn has_unread(&self) -> bool {
        false
    }
}

impl Io for UnixStream {}

impl Io for TcpStream {
    fn wakes_for(&self, bytes: usize) {
        if let Err(e) = low_water(self, bytes) {
            tracing::debug!(error = %e, "the socket's low-water mark is not set");
        }
    }

    fn has_unread(&self) -> bool {
        unread(self).is_ok_and(|bytes| bytes > 0)
    }
}

impl Io for TlsStream<TcpStream> {
    fn wakes_for(&self, bytes: usize) {
        self.get_ref().0.wakes_for(bytes);
    }

    fn has_unread(&self) -> bool {
        self.get_ref().0.has_unread()
    }
}

/// Linux heeds SO_RCVLOWAT when it wakes, and looks again when it is set (socket(7), tcp_set_rcvlowat); others
/// would have to be asked whether they do.
#[cfg(target_os = "linux")]
fn low_water(socket: &TcpStream, bytes: usize) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the socket is open while it is borrowed, and the value is of the size that is told.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// How many bytes wait (tcp(7), FIONREAD).
#[cfg(target_os = "linux")]
fn unread(socket: &TcpStream) -> std::io::Result<libc::c_int> {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the socket is open while it is borrowed, and the answer is a c_int.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unread(_: &TcpStream) -> std::io::Result<libc::c_int> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn low_water(_: &TcpStream, _: usize) -> std::io::Result<()> {
    Ok(())
}

/// Connects to the endpoint, up to the point where the startup message may be sent.
pub(super) async fn dial(endpoint: &Endpoint) -> Result<Box<dyn Io>> {
    match &endpoint.address {
        Address::Unix { path } => {
            Ok(Box::new(in_time(endpoint, async { Ok(UnixStream::connect(path).await?) }).await?))
        }
        Address::Tcp { host, addr, port } => {
            let socket = dial_tcp(endpoint, host, *addr, *port).await?;
            in_time(endpoint, negotiate_tls(endpoint, host, *addr, socket)).await
        }
    }
}

/// `talk`, but no longer than the endpoint's limit.
pub(super) async fn in_time<T>(
    endpoint: &Endpoint,
    talk: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(limit) = endpoint.connect_timeout else { return talk.await };
    match tokio::time::timeout(limit, talk).await {
        Ok(result) => result,
        Err(_) => {
            let what = format!("no answer within {limit:?}");
            Err(Error::failed(what).source(std::io::Error::from(std::io::ErrorKind::TimedOut)))
        }
    }
}

/// Tries every address the name stands for; the last one's error is the one reported.
async fn dial_tcp(
    endpoint: &Endpoint,
    host: &str,
    addr: Option<IpAddr>,
    port: u16,
) -> Result<TcpStream> {
    let mut last = Error::failed(format!("the name {host:?} stands for no address"));
    for address in addresses(host, addr, port).await? {
        match in_time(endpoint, connect_tcp(address)).await {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e.context(address),
        }
    }
    Err(last)
}

async fn addresses(host: &str, addr: Option<IpAddr>, port: u16) -> Result<Vec<SocketAddr>> {
    if let Some(addr) = addr {
        return Ok(vec![SocketAddr::new(addr, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|e| {
        Error::failed(format!("the name {host:?} cannot be looked up: {e}")).source(e)
    })?;
    Ok(found.collect())
}

/// Keep-alive probes find a server that is gone for good while we only listen; without delay,
/// because our own messages are small and the server's log waits for them.
async fn connect_tcp(address: SocketAddr) -> Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_keepalive(true)?;
    socket.set_nodelay(true)?;
    Ok(socket.connect(address).await?)
}

/// "SSL Session Encryption": ask, and read exactly one byte of answer. Nothing is buffered here,
/// so that no plain-text byte slipped in behind the answer can be taken for an encrypted one.
async fn negotiate_tls(
    endpoint: &Endpoint,
    host: &str,
    addr: Option<IpAddr>,
    mut socket: TcpStream,
) -> Result<Box<dyn Io>> {
    let Some(config) = &endpoint.tls else { return plain(endpoint, socket, "no TLS is set up") };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    match socket.read_u8().await? {
        b'S' => {
            let connector = TlsConnector::from(Arc::clone(config));
            let tls = connector.connect(server_name(host, addr)?, socket).await;
            Ok(Box::new(tls.map_err(tls_failed)?))
        }
        b'N' => plain(endpoint, socket, "the server does not offer it"),
        other => Err(Error::failed(format!(
            "the server answered the request for TLS with {other:#04x} instead of 'S' or 'N'"
        ))),
    }
}

/// A certificate that is refused is not a lost connection: trying again does not help.
fn tls_failed(e: std::io::Error) -> Error {
    let error = Error::failed(format!("TLS failed: {e}"));
    if e.kind() == std::io::ErrorKind::InvalidData { error } else { error.source(e) }
}

fn plain(endpoint: &Endpoint, socket: TcpStream, why: &str) -> Result<Box<dyn Io>> {
    if endpoint.tls_required {
        return Err(Error::failed(format!("TLS is required, but {why}"))
            .next("Switch on ssl on the server, or allow a connection without TLS (sslmode)"));
    }
    Ok(Box::new(socket))
}

fn server_name(host: &str, addr: Option<IpAddr>) -> Result<ServerName<'static>> {
    match addr {
        Some(addr) if host.is_empty() => Ok(ServerName::from(addr)),
        _ => ServerName::try_from(host.to_owned()).map_err(|e| {
            Error::failed(format!("no certificate can be for the host name {host:?}: {e}"))
        }),
    }
}
