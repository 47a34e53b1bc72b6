//! The stream itself: frames in, positions out.

use std::time::{Duration, SystemTime};

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::channel::{Channel, Inbound};
use super::frame::{self, Frame, Progress};
use crate::error::{Error, Result};
use crate::pg::Lsn;

/// How long [`ReplicationStream::finish`] waits for the server, which may be in the middle of a
/// large transaction.
const FINISH_LIMIT: Duration = Duration::from_secs(3);

/// How long to listen for the reason after nothing could be sent any more.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// More than any system keeps for a socket.
const MANY_BYTES: usize = 1 << 30;

/// A running stream. `next` and `status_update` may both be abandoned at any await.
///
/// The server ends a stream it hears nothing from for `wal_sender_timeout`; whoever wants to know
/// whether the server is still there asks by `status_update(…, reply: true)`: it answers at once.
///
/// A server that is told to shut down waits until the receiver has confirmed all of the log as
/// *flushed*, without limit, while keepalives that ask for a reply go on. A receiver that keeps its
/// position back must end the stream when its other connections tell of the shutdown (57P01).
pub struct ReplicationStream {
    channel: Channel,
    pid: i32,
}

impl ReplicationStream {
    pub(super) fn new(channel: Channel, pid: i32) -> Self {
        ReplicationStream { channel, pid }
    }

    /// The walsender's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The next frame; `None` when the server ended the stream in good order because it shuts
    /// down, everything having been confirmed. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        match self.channel.receive().await? {
            Inbound::Backend(Message::CopyData(body)) => {
                Ok(Some(frame::decode(body.into_bytes())?))
            }
            Inbound::Backend(Message::CommandComplete(_)) => Ok(None),
            Inbound::Backend(Message::CopyDone) => {
                Err(Error::failed("the server ended the replication stream"))
            }
            Inbound::Backend(Message::ErrorResponse(body)) => {
                Err(Channel::refused(&body).context("the server ended the replication stream"))
            }
            _ => Err(self.channel.unexpected("the replication stream")),
        }
    }

    /// Whether something waits that `next` has yet to give out. It is not the time to rest then: see [`rest`](Self::rest).
    pub fn has_unread(&self) -> bool {
        self.channel.has_unread()
    }

    /// While `next` is not asked: less than so much from the server wakes nobody, in vain. What waits by
    /// now is not told of either, though `wake` asked for it: who rests again and again needs not see any of it ever.
    pub fn rest(&self) {
        self.channel.wakes_for(MANY_BYTES);
    }

    /// `next` will be asked again.
    pub fn wake(&self) {
        self.channel.wakes_for(1);
    }

    /// Tells the server how far we are; `reply` asks for a keepalive. Cancel safe: what could not
    /// be sent goes out with the next call of this or of `next`.
    pub async fn status_update(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply: bool,
    ) -> Result<()> {
        let progress = Progress { written, flushed, applied };
        let status = frame::encode_status(progress, frame::clock(SystemTime::now()), reply);
        self.channel.queue(|out| {
            frontend::CopyData::new(&status[..])?.write(out);
            Ok(())
        })?;
        match self.channel.send().await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.last_words().await.unwrap_or(e)),
        }
    }

    /// What the server said before it closed its end: that, and not the broken pipe, is the cause.
    async fn last_words(&mut self) -> Option<Error> {
        self.wake();
        let listen = async {
            loop {
                match self.channel.receive().await {
                    Ok(Inbound::Backend(Message::ErrorResponse(body))) => {
                        return Some(Channel::refused(&body));
                    }
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(LAST_WORDS_LIMIT, listen).await.ok().flatten()
    }

    /// Ends the stream so that the slot is free afterwards; best effort, within a few seconds.
    pub async fn finish(mut self) {
        self.wake();
        if tokio::time::timeout(FINISH_LIMIT, self.say_goodbye()).await.is_err() {
            tracing::debug!(pid = self.pid, "the walsender did not end in time");
        }
    }

    /// The server lets go of the slot before it is ready for another command.
    async fn say_goodbye(&mut self) -> Result<()> {
        self.channel.queue(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.channel.send().await?;
        while !matches!(
            self.channel.receive().await?,
            Inbound::Backend(Message::ReadyForQuery(_) | Message::ErrorResponse(_))
        ) {}
        self.channel.queue(|out| {
            frontend::terminate(out);
            Ok(())
        })?;
        self.channel.send().await
    }
}
