//! The streaming replication sub-protocol inside CopyData, as data: what the server says about
//! its log beside the changes themselves, and what we answer. The layout is that of PostgreSQL's
//! documentation, "Streaming Replication Protocol", START_REPLICATION.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes};

use super::cursor::{Cursor, DecodeError};
use crate::pg::Lsn;

/// What one CopyData message holds. Times are microseconds since 2000-01-01.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One message of the output plugin, for [`decode`](fn@super::decode). A logical walsender
    /// gives the same position twice: that of the change, or of the commit it belongs to.
    XLogData { wal_start: Lsn, wal_end: Lsn, send_time: i64, data: Bytes },
    /// Everything up to `wal_end` that concerns us has been sent. Where the server asks for a
    /// reply it will soon believe us dead without one.
    Keepalive { wal_end: Lsn, send_time: i64, reply_requested: bool },
}

/// Decodes one CopyData message's content.
pub fn decode(content: Bytes) -> Result<Frame, DecodeError> {
    let mut cursor = Cursor::new(content);
    let frame = match cursor.u8("a message type")? {
        b'w' => xlog_data(cursor.named("XLogData")),
        b'k' => keepalive(cursor.named("Primary keepalive")),
        other => {
            let expected = format!("a replication message type ('w' or 'k'), not {other:#04x},");
            Err(cursor.fail_before(expected))
        }
    }?;
    cursor.end()?;
    Ok(frame)
}

fn xlog_data(cursor: &mut Cursor) -> Result<Frame, DecodeError> {
    Ok(Frame::XLogData {
        wal_start: cursor.lsn("the start of the data in the log")?,
        wal_end: cursor.lsn("the end of the log")?,
        send_time: cursor.i64("the server's clock")?,
        data: cursor.take_rest(),
    })
}

fn keepalive(cursor: &mut Cursor) -> Result<Frame, DecodeError> {
    Ok(Frame::Keepalive {
        wal_end: cursor.lsn("the end of the log")?,
        send_time: cursor.i64("the server's clock")?,
        reply_requested: cursor.bool("whether a reply is asked for, 0 or 1")?,
    })
}

/// How far the receiver has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Received.
    pub written: Lsn,
    /// Safe with us: the slot's confirmed position moves here and the log before it may go.
    pub flushed: Lsn,
    /// Done with; for monitoring.
    pub applied: Lsn,
}

/// The content of a standby status update; `clock` as of [`clock`], `reply` asks for a keepalive.
pub fn encode_status(progress: Progress, clock: i64, reply: bool) -> [u8; STATUS_BYTES] {
    let mut content = [0; STATUS_BYTES];
    let mut out = &mut content[..];
    out.put_u8(b'r');
    out.put_u64(progress.written.0);
    out.put_u64(progress.flushed.0);
    out.put_u64(progress.applied.0);
    out.put_i64(clock);
    out.put_u8(reply.into());
    content
}

/// Type, three positions, clock, reply.
const STATUS_BYTES: usize = 1 + 3 * 8 + 8 + 1;

/// `now` in PostgreSQL's count: microseconds since 2000-01-01 00:00 UTC.
pub fn clock(now: SystemTime) -> i64 {
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    match now.duration_since(SystemTime::UNIX_EPOCH + EPOCH) {
        Ok(since) => micros(since),
        Err(e) => -micros(e.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const XLOG: &[u8] = b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03data";
    const KEEPALIVE: &[u8] = b"k\0\0\0\x16\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xfd\x01";

    #[test]
    fn both_frames_are_read() {
        assert_eq!(
            decode(Bytes::from_static(XLOG)).unwrap(),
            Frame::XLogData {
                wal_start: Lsn(1),
                wal_end: Lsn(2),
                send_time: 3,
                data: Bytes::from_static(b"data")
            }
        );
        assert_eq!(
            decode(Bytes::from_static(KEEPALIVE)).unwrap(),
            Frame::Keepalive { wal_end: Lsn(0x16_0000_0002), send_time: -3, reply_requested: true }
        );
    }

    #[test]
    fn a_frame_cut_short_or_too_long_is_an_error() {
        for end in 0..25 {
            decode(Bytes::from_static(&XLOG[..end])).unwrap_err();
        }
        for end in 0..KEEPALIVE.len() {
            decode(Bytes::from_static(&KEEPALIVE[..end])).unwrap_err();
        }
        let longer = [KEEPALIVE, b"\0"].concat();
        let e = decode(longer.into()).unwrap_err();
        assert_eq!((e.message, e.offset), ("Primary keepalive", 18));
        assert!(decode(Bytes::from_static(b"x")).unwrap_err().to_string().contains("0x78"));
    }

    #[test]
    fn the_status_update_is_laid_out_as_documented() {
        let progress = Progress { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1) };
        assert_eq!(
            encode_status(progress, 5, true),
            *b"r\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x05\x01"
        );
    }

    #[test]
    fn the_clock_counts_from_2000() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        assert_eq!(clock(at(946_684_801)), 1_000_000);
        assert_eq!(clock(at(946_684_799)), -1_000_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes: Vec<u8>) {
            let _ = decode(bytes.into());
        }
    }
}
