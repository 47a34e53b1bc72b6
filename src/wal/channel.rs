//! Messages over a byte stream, in both directions, safe to abandon at any await.
//!
//! Whatever has arrived but is not yet a whole message waits in `inbox`, whatever has not been
//! sent yet in `outbox`. A future that is dropped (`select!`) therefore loses nothing, repeats
//! nothing and leaves no half message behind: the next call goes on where the last one stopped.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::endpoint::Io;
use super::server_error::{ServerError, log_notice};
use crate::error::{Error, Result};

/// PostgreSQL itself refuses to make anything longer ("MaxAllocSize").
const MAX_MESSAGE_BYTES: usize = 1 << 30;
/// Room made before a read; memory grows by what arrives, whatever length was announced.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this a read is not worth its system call.
const SMALLEST_READ_BYTES: usize = 1024;

/// A message from the server.
pub(super) enum Inbound {
    Backend(Message),
    /// Replication has begun; `postgres-protocol` does not know this one.
    CopyBoth,
}

/// The two buffers and the stream between them.
pub(super) struct Channel {
    io: Box<dyn Io>,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Sent, but perhaps still in a buffer of the TLS layer.
    unflushed: bool,
    last_tag: u8,
    parameters: HashMap<String, String>,
}

impl Channel {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Channel {
            io,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            unflushed: false,
            last_tag: 0,
            parameters: HashMap::new(),
        }
    }

    /// What the server last reported for a setting (ParameterStatus).
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The next message that is not a notice or a setting's report. Cancel safe.
    pub(super) async fn receive(&mut self) -> Result<Inbound> {
        loop {
            match self.take_message()? {
                Some(Inbound::Backend(Message::NoticeResponse(body))) => log_notice(&body),
                Some(Inbound::Backend(Message::ParameterStatus(body))) => {
                    let text = |value: io::Result<&str>| value.map(str::to_owned);
                    let (name, value) = (text(body.name()), text(body.value()));
                    self.parameters.insert(name.map_err(broken)?, value.map_err(broken)?);
                }
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    /// Whatever message of the inbox is complete.
    fn take_message(&mut self) -> Result<Option<Inbound>> {
        let Some(header) = Header::parse(&self.inbox).map_err(broken)? else { return Ok(None) };
        self.last_tag = header.tag();
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(violation(format!("a message of {length} bytes is announced")));
        }
        // The header counts its length field, but not the tag in front of it. The parser is asked
        // only for a message that is there: it reserves whatever length is announced.
        if self.inbox.len() <= length {
            return Ok(None);
        }
        if header.tag() == b'W' {
            self.inbox.advance(1 + length);
            return Ok(Some(Inbound::CopyBoth));
        }
        Ok(Message::parse(&mut self.inbox).map_err(broken)?.map(Inbound::Backend))
    }

    /// Waits for more bytes, sending meanwhile what an abandoned `send` left.
    async fn fill(&mut self) -> Result<()> {
        let arrived = poll_fn(|cx| {
            // A server that goes away says why before it does: what it said can still be read when
            // nothing can be sent any more, and the reading will find the end.
            if let Poll::Ready(Err(e)) = self.poll_send(cx) {
                tracing::debug!(error = %e, "sending to the walsender failed");
                self.outbox.clear();
                self.unflushed = false;
            }
            self.poll_receive(cx)
        });
        match arrived.await {
            Ok(0) => Err(lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(e) => Err(lost(e)),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() - self.inbox.len() < SMALLEST_READ_BYTES {
            self.inbox.reserve(READ_BYTES);
        }
        pin!(self.io.read_buf(&mut self.inbox)).poll(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outbox.has_remaining() {
            match pin!(self.io.write_buf(&mut self.outbox)).poll(cx)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(_) => self.unflushed = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match pin!(self.io.flush()).poll(cx)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// From now on fewer bytes than these wake nobody who waits for a message.
    pub(super) fn wakes_for(&self, bytes: usize) {
        self.io.wakes_for(bytes);
    }

    /// Whether bytes wait that `receive` has yet to give out.
    pub(super) fn has_unread(&self) -> bool {
        !self.inbox.is_empty() || self.io.has_unread()
    }

    /// Puts a message in line for [`send`](Self::send).
    pub(super) fn queue(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let before = self.outbox.len();
        write(&mut self.outbox).map_err(|e| {
            self.outbox.truncate(before);
            Error::failed(format!("a message for PostgreSQL cannot be written: {e}"))
        })
    }

    /// Sends all that is in line. Cancel safe.
    pub(super) async fn send(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await.map_err(lost)
    }

    /// The error for a message that has no place where it came.
    pub(super) fn unexpected(&self, instead_of: &str) -> Error {
        let tag = char::from(self.last_tag).escape_default();
        violation(format!("a message of type '{tag}' came instead of {instead_of}"))
    }

    /// A whole error answer, as an error.
    pub(super) fn refused(body: &postgres_protocol::message::backend::ErrorResponseBody) -> Error {
        ServerError::read(body).into()
    }
}

fn lost(e: io::Error) -> Error {
    let what = match e.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the replication connection".to_owned(),
        _ => format!("the replication connection is lost: {e}"),
    };
    Error::failed(what).source(e)
}

fn broken(e: io::Error) -> Error {
    violation(e.to_string())
}

/// Not a lost connection, which one might make again: this needs somebody to look.
fn violation(what: String) -> Error {
    Error::failed(format!("the server does not keep to the protocol: {what}"))
        .next("Look for what is between here and the server (a proxy, another service)")
}

#[cfg(test)]
mod tests;
