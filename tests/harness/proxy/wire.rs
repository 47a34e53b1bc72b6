//! Just enough of PostgreSQL's protocol: where messages end, who connects, what is asked, and when
//! it has been answered.

use bytes::{Buf, Bytes, BytesMut};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// What a startup packet may be long; the server has the same limit.
const LONGEST_START: usize = 10_000;

/// The first packet of a connection.
#[derive(Debug, PartialEq)]
pub enum Start {
    /// Asks for an encrypted connection; the next packet is another one of these.
    Encryption,
    Cancel(Bytes),
    Session {
        application_name: String,
        packet: Bytes,
    },
}

/// Takes the first packet off `input`; `None` while it is not complete, an error where it is none.
pub fn take_start(input: &mut BytesMut) -> Result<Option<Start>, String> {
    let Some(length) = peek_u32(input, 0) else { return Ok(None) };
    if !(8..=LONGEST_START).contains(&length) {
        return Err(format!("no startup packet of PostgreSQL: a length of {length}"));
    }
    if input.len() < length {
        return Ok(None);
    }
    let packet = input.split_to(length).freeze();
    Ok(Some(match (&packet[4..8]).get_u32() {
        SSL_REQUEST | GSSENC_REQUEST => Start::Encryption,
        CANCEL_REQUEST => Start::Cancel(packet),
        _ => Start::Session { application_name: application_name(&packet[8..]), packet },
    }))
}

fn application_name(parameters: &[u8]) -> String {
    let mut strings = parameters.split(|byte| *byte == 0);
    while let (Some(name), Some(value)) = (strings.next(), strings.next()) {
        if name == b"application_name" {
            return String::from_utf8_lossy(value).into_owned();
        }
    }
    String::new()
}

/// A message of the client that the server answers with ReadyForQuery.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// The startup packet.
    Session,
    /// A simple query and its text.
    Query(String),
    /// The end of an extended query, or a function call.
    Sync,
}

/// Whole messages of the client that are passed on in one piece.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub bytes: Bytes,
    /// The texts in it, of simple queries and of statements to be prepared.
    pub statements: Vec<String>,
    /// The last message, where it is one that will be answered; a simple query stands alone.
    pub request: Option<Request>,
}

/// Takes whole messages of the client off `input`: up to a request, or as many as there are.
pub fn take_asked(input: &mut BytesMut) -> Option<Asked> {
    let mut asked = Asked::default();
    let mut end = 0;
    while let Some(length) = message_at(input, end) {
        let (tag, body) = (input[end], &input[end + 5..end + length]);
        if tag == b'Q' && end > 0 {
            break;
        }
        match tag {
            b'Q' => {
                asked.statements.push(string(body));
                asked.request = Some(Request::Query(string(body)));
            }
            // The statement's name comes first.
            b'P' => asked.statements.extend(body.splitn(2, |b| *b == 0).nth(1).map(string)),
            b'S' | b'F' => asked.request = Some(Request::Sync),
            _ => {}
        }
        end += length;
        if asked.request.is_some() {
            break;
        }
    }
    asked.bytes = input.split_to(end).freeze();
    (end > 0).then_some(asked)
}

/// What ends a piece of the server's answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Milestone {
    /// ReadyForQuery: a request is done with.
    Ready,
    /// The server now takes rows (COPY … FROM STDIN).
    CopyIn,
    /// The stream of replication begins.
    CopyBoth,
}

/// Whole messages of the server.
#[derive(Debug, Default, PartialEq)]
pub struct Answered {
    pub bytes: Bytes,
    pub milestone: Option<Milestone>,
}

/// Takes whole messages of the server off `input`: up to a milestone, or as many as there are.
pub fn take_answered(input: &mut BytesMut) -> Option<Answered> {
    let mut milestone = None;
    let mut end = 0;
    while let Some(length) = message_at(input, end).filter(|_| milestone.is_none()) {
        milestone = match input[end] {
            b'Z' => Some(Milestone::Ready),
            b'G' => Some(Milestone::CopyIn),
            b'W' => Some(Milestone::CopyBoth),
            _ => None,
        };
        end += length;
    }
    let bytes = input.split_to(end).freeze();
    (end > 0).then_some(Answered { bytes, milestone })
}

/// The length of the message at `at`, its tag included, once all of it is there.
fn message_at(input: &[u8], at: usize) -> Option<usize> {
    let length = 1 + peek_u32(input, at + 1)?.max(4);
    (input.len() - at >= length).then_some(length)
}

fn peek_u32(input: &[u8], at: usize) -> Option<usize> {
    input.get(at..at + 4).map(|mut bytes| bytes.get_u32() as usize)
}

/// The text up to the first zero.
fn string(body: &[u8]) -> String {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    String::from_utf8_lossy(&body[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_startup_packet_tells_the_name() {
        let body = b"\0\x03\0\0user\0me\0application_name\0pgwraith/1/copy 1\0\0";
        let packet = [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat();
        let mut input = BytesMut::from(&packet[..packet.len() - 1]);
        assert_eq!(take_start(&mut input), Ok(None));
        input.extend_from_slice(&packet[packet.len() - 1..]);
        let Ok(Some(Start::Session { application_name, .. })) = take_start(&mut input) else {
            panic!("no session");
        };
        assert_eq!(application_name, "pgwraith/1/copy 1");
        assert!(input.is_empty());
        assert!(take_start(&mut BytesMut::from(&b"GET / HTTP/1.1"[..])).is_err());
    }

    #[test]
    fn a_query_stands_alone_and_the_incomplete_waits() {
        let parse = message(b'P', b"name\0SELECT 1\0\0\0");
        let (sync, query) = (message(b'S', b""), message(b'Q', b"COMMIT\0"));
        let all = [&parse[..], &sync, &parse, &query, &query[..6]].concat();
        let mut input = BytesMut::from(&all[..]);
        let first = take_asked(&mut input).unwrap();
        assert_eq!(
            (first.statements, first.request),
            (vec!["SELECT 1".into()], Some(Request::Sync))
        );
        let second = take_asked(&mut input).unwrap();
        assert_eq!((&second.bytes[..], second.request), (&parse[..], None));
        let third = take_asked(&mut input).unwrap();
        assert_eq!(third.request, Some(Request::Query("COMMIT".into())));
        assert_eq!(take_asked(&mut input), None);
        assert_eq!(input.len(), 6);
    }

    #[test]
    fn an_answer_ends_at_its_milestone() {
        let all = [message(b'C', b"COMMIT\0"), message(b'Z', b"I"), message(b'N', b"x")].concat();
        let mut input = BytesMut::from(&all[..]);
        assert_eq!(take_answered(&mut input).unwrap().milestone, Some(Milestone::Ready));
        assert_eq!(take_answered(&mut input).unwrap().milestone, None);
        assert_eq!(take_answered(&mut input), None);
    }
}
