//! Answers whoever asks how the run stands, over HTTP. It tells, and changes nothing.
//!
//! A thread and a runtime of its own: whatever somebody does here, the run does not notice. Connections are
//! few, short, and answer one request each.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Board, metrics};
use crate::error::{Error, Kind, Result};

/// Requests answered at a time; more wait for their turn.
const AT_ONCE: usize = 16;
/// A client that takes longer is cut off.
const LIMIT: Duration = Duration::from_secs(5);
/// A request's head is no larger; none of ours has a body.
const LARGEST: usize = 8 << 10;
/// Where there are no more descriptors, trying at once is of no use.
const PAUSE: Duration = Duration::from_millis(200);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// An address that is ours already, where nobody is answered yet.
pub struct Listener(TcpListener);

impl Listener {
    /// Takes the address.
    pub fn take(address: SocketAddr) -> Result<Listener> {
        let taken = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Listener(listener))
        });
        taken.map_err(|e| {
            Error::new(Kind::Refused, format!("--listen {address} is not to be had: {e}"))
                .state("Nothing was touched")
                .next("Give another port, or leave --listen out")
        })
    }

    /// Answers from `board` until the process ends.
    pub(super) fn answer(self, board: Board) {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| runtime.block_on(serve(self.0, board)));
            if let Err(e) = served {
                tracing::error!("--listen: nobody is answered: {e}");
            }
        });
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.local_addr() {
            Ok(address) => write!(f, "http://{address}"),
            Err(_) => f.write_str("--listen"),
        }
    }
}

async fn serve(listener: TcpListener, board: Board) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("--listen: {e}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let board = board.clone();
        tokio::spawn(async move {
            if timeout(LIMIT, converse(stream, &board)).await.is_err() {
                tracing::debug!("--listen: a client was too slow");
            }
            drop(turn);
        });
    }
}

/// One connection, one request.
async fn converse(stream: TcpStream, board: &Board) {
    let reply = service_fn(|request: Request<Incoming>| {
        let reply = reply(request.method(), request.uri().path(), board);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(LARGEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), reply)
        .await;
    if let Err(e) = served {
        tracing::debug!("--listen: {e}");
    }
}

fn reply(method: &Method, path: &str, board: &Board) -> Response<Full<Bytes>> {
    if method != Method::GET {
        let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    let (facts, now) = (board.read(), Instant::now());
    match path {
        "/metrics" => answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(facts)),
        "/status" => answer(StatusCode::OK, JSON, format!("{}\n", facts.as_json(now))),
        "/health" => match facts.trouble(now) {
            None => answer(StatusCode::OK, TEXT, "well\n"),
            Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("stuck: {why}\n")),
        },
        _ => answer(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /status and /health\n"),
    }
}

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
