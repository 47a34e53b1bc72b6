//! Reading fields from a message that may be cut short or wrong anywhere: every step checks what
//! is left, and a number sent by the server never decides how much memory is taken.

use std::borrow::Cow;

use bytes::{Buf, Bytes};

use crate::error::Error;
use crate::pg::Lsn;

/// A message that is not what the protocol promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message} message: expected {expected} at byte {offset} of {length}")]
pub struct DecodeError {
    /// The kind of message, as PostgreSQL's documentation names it.
    pub message: &'static str,
    /// Where in the message, in bytes from its start.
    pub offset: usize,
    /// The message's length in bytes.
    pub length: usize,
    /// What should have been there.
    pub expected: Cow<'static, str>,
}

impl From<DecodeError> for Error {
    fn from(e: DecodeError) -> Self {
        Error::failed(format!("the replication stream is not what the protocol promises: {e}"))
            .source(e)
    }
}

type Result<T> = std::result::Result<T, DecodeError>;

/// The unread rest of one message. Byte strings taken from it share the message's memory.
pub(super) struct Cursor {
    rest: Bytes,
    length: usize,
    message: &'static str,
}

impl Cursor {
    pub(super) fn new(message: Bytes) -> Self {
        Cursor { length: message.len(), rest: message, message: "unknown" }
    }

    /// Says what kind of message this is, for errors to come.
    pub(super) fn named(&mut self, message: &'static str) -> &mut Self {
        self.message = message;
        self
    }

    fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    /// An error at the next unread byte.
    pub(super) fn fail(&self, expected: impl Into<Cow<'static, str>>) -> DecodeError {
        self.fail_at(self.offset(), expected)
    }

    /// An error at the byte read last, which was not what it should be.
    pub(super) fn fail_before(&self, expected: impl Into<Cow<'static, str>>) -> DecodeError {
        self.fail_at(self.offset().saturating_sub(1), expected)
    }

    fn fail_at(&self, offset: usize, expected: impl Into<Cow<'static, str>>) -> DecodeError {
        let (message, length) = (self.message, self.length);
        DecodeError { message, offset, length, expected: expected.into() }
    }

    pub(super) fn u8(&mut self, expected: &'static str) -> Result<u8> {
        self.rest.try_get_u8().map_err(|_| self.fail(expected))
    }

    pub(super) fn i32(&mut self, expected: &'static str) -> Result<i32> {
        self.rest.try_get_i32().map_err(|_| self.fail(expected))
    }

    pub(super) fn u32(&mut self, expected: &'static str) -> Result<u32> {
        self.rest.try_get_u32().map_err(|_| self.fail(expected))
    }

    pub(super) fn i64(&mut self, expected: &'static str) -> Result<i64> {
        self.rest.try_get_i64().map_err(|_| self.fail(expected))
    }

    pub(super) fn lsn(&mut self, expected: &'static str) -> Result<Lsn> {
        self.rest.try_get_u64().map(Lsn).map_err(|_| self.fail(expected))
    }

    /// A byte that must be 0 or 1.
    pub(super) fn bool(&mut self, expected: &'static str) -> Result<bool> {
        Ok(self.flags(1, expected)? == 1)
    }

    /// A byte of flags, none of them outside `known`: a flag nobody taught us may change what the
    /// message means.
    pub(super) fn flags(&mut self, known: u8, expected: &'static str) -> Result<u8> {
        let flags = self.u8(expected)?;
        if flags & !known != 0 { Err(self.fail_before(expected)) } else { Ok(flags) }
    }

    /// An Int16 number of items.
    pub(super) fn count16(&mut self, expected: &'static str) -> Result<usize> {
        let offset = self.offset();
        let count = self.rest.try_get_i16().map_err(|_| self.fail(expected))?;
        usize::try_from(count).map_err(|_| self.fail_at(offset, expected))
    }

    /// An Int32 number of items or bytes.
    pub(super) fn count32(&mut self, expected: &'static str) -> Result<usize> {
        let offset = self.offset();
        let count = self.i32(expected)?;
        usize::try_from(count).map_err(|_| self.fail_at(offset, expected))
    }

    /// A list with room for `count` items, each of at least `item_bytes` on the wire; never for
    /// more than the bytes that have really arrived can hold.
    pub(super) fn room_for<T>(&self, count: usize, item_bytes: usize) -> Vec<T> {
        Vec::with_capacity(count.min(self.rest.len() / item_bytes.max(1)))
    }

    /// Bytes up to a zero byte, which is taken too.
    pub(super) fn cstr(&mut self, expected: &'static str) -> Result<Bytes> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.fail(expected))?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(text)
    }

    /// An Int32 length and so many bytes.
    pub(super) fn counted_bytes(&mut self, expected: &'static str) -> Result<Bytes> {
        let length = self.count32(expected)?;
        if length > self.rest.len() {
            return Err(self.fail(expected));
        }
        Ok(self.rest.split_to(length))
    }

    /// Whether `byte` comes next; takes nothing.
    pub(super) fn next_is(&self, byte: u8) -> bool {
        self.rest.first() == Some(&byte)
    }

    /// All that is left.
    pub(super) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Insists that nothing is left.
    pub(super) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fail("the end of the message")) }
    }
}
