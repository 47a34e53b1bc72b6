use std::time::Duration;

use bytes::BufMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;
use crate::pg::Lsn;
use crate::wal::frame::Frame;
use crate::wal::stream::ReplicationStream;
use crate::wal::{Address, Endpoint, startup};

impl Io for DuplexStream {}

const MOMENT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(5);

/// A stream and the server's end of it, whose buffers hold `bytes` each way.
fn stream(bytes: usize) -> (ReplicationStream, DuplexStream) {
    let (ours, theirs) = duplex(bytes);
    (ReplicationStream::new(Channel::new(Box::new(ours)), 7), theirs)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
    out
}

fn keepalive(wal_end: u64) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.put_u64(wal_end);
    body.put_i64(0);
    body.put_u8(0);
    message(b'd', &body)
}

fn end_of(frame: Option<Frame>) -> u64 {
    match frame {
        Some(Frame::Keepalive { wal_end, .. } | Frame::XLogData { wal_end, .. }) => wal_end.0,
        None => panic!("the stream ended"),
    }
}

#[tokio::test]
async fn a_read_abandoned_at_every_byte_loses_nothing() {
    let (mut stream, mut server) = stream(1024);
    for (n, byte) in (1..=3).flat_map(|n| keepalive(n).into_iter().map(move |b| (n, b))) {
        server.write_all(&[byte]).await.unwrap();
        // Polled once and dropped.
        let seen = tokio::select! {
            biased;
            frame = stream.next() => Some(end_of(frame.unwrap())),
            () = std::future::ready(()) => None,
        };
        assert!(seen.is_none_or(|end| end == n));
    }
    server.write_all(&keepalive(4)).await.unwrap();
    assert_eq!(end_of(stream.next().await.unwrap()), 4);
}

/// Where the system does not know how, it would wake.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_rest_is_not_disturbed_and_what_came_meanwhile_is_there_after_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut stream = ReplicationStream::new(Channel::new(Box::new(ours)), 7);
    for n in [1, 3] {
        assert!(timeout(MOMENT, stream.next()).await.is_err(), "nothing is there yet");
        stream.rest();
        server.write_all(&keepalive(n)).await.unwrap();
        server.write_all(&keepalive(n + 1)).await.unwrap();
        assert!(timeout(MOMENT, stream.next()).await.is_err(), "it was woken");
        stream.wake();
        for expected in [n, n + 1] {
            let frame = timeout(LONG, stream.next()).await.expect("it sleeps on");
            assert_eq!(end_of(frame.unwrap()), expected);
        }
    }
}

/// As whoever captures does: it rests as soon as all was read. One thread, so the runtime looks at sockets only when
/// everybody waits.
#[tokio::test]
async fn who_rests_again_and_again_reads_what_came_all_the_same() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut stream = ReplicationStream::new(Channel::new(Box::new(ours)), 7);
    stream.rest();
    server.write_all(&keepalive(1)).await.unwrap();
    let reads = async {
        loop {
            // The rest.
            tokio::time::sleep(Duration::from_millis(1)).await;
            stream.wake();
            tokio::select! {
                biased;
                frame = stream.next() => return end_of(frame.unwrap()),
                () = std::future::ready(()), if !stream.has_unread() => {}
            }
            stream.rest();
        }
    };
    assert_eq!(timeout(LONG, reads).await, Ok(1));
}

#[tokio::test]
async fn a_status_abandoned_half_way_goes_out_whole_and_once() {
    // Too small for one status update: the first call cannot finish.
    let (mut stream, mut server) = stream(10);
    let update = stream.status_update(Lsn(1), Lsn(1), Lsn(1), false);
    assert!(timeout(MOMENT, update).await.is_err());
    // Listening goes on with the sending.
    let mut sent = [0; 39];
    let read = async {
        server.read_exact(&mut sent).await.unwrap();
        server.write_all(&keepalive(9)).await.unwrap();
    };
    let both = async { tokio::join!(stream.next(), read) };
    let (frame, ()) = timeout(LONG, both).await.expect("the rest was never sent");
    assert_eq!(end_of(frame.unwrap()), 9);
    assert_eq!(&sent[..14], b"d\0\0\0\x26r\0\0\0\0\0\0\0\x01");

    let (result, _) = tokio::join!(
        stream.status_update(Lsn(2), Lsn(2), Lsn(2), true),
        server.read_exact(&mut sent)
    );
    result.unwrap();
    assert_eq!((&sent[..14], sent[38]), (&b"d\0\0\0\x26r\0\0\0\0\0\0\0\x02"[..], 1));
}

#[tokio::test]
async fn every_end_of_a_stream_says_what_it_was() {
    let error = message(b'E', b"SFATAL\0C57P01\0Mgo away\0Hcome back\0\0");
    let cases: [(Vec<u8>, &str); 6] = [
        (error, "PostgreSQL says: go away (SQLSTATE 57P01); hint: come back"),
        (message(b'c', b""), "the server ended the replication stream"),
        (message(b'd', b"?"), "malformed unknown message"),
        (message(b'Z', b"I"), "a message of type 'Z' came instead of the replication stream"),
        (message(b'!', b""), "unknown message tag"),
        (keepalive(1)[..10].to_vec(), "the server closed the replication connection"),
    ];
    for (bytes, expected) in cases {
        let (mut stream, mut server) = stream(1024);
        server.write_all(&bytes).await.unwrap();
        drop(server);
        let e = stream.next().await.unwrap_err();
        assert!(e.to_string().contains(expected), "{e}");
        assert_eq!(ServerError::of(&e).is_some(), expected.contains("57P01"), "{e}");
        assert_eq!(e.is_connection_lost(), expected.contains("closed"), "{e}");
    }
    let (mut stream, mut server) = stream(1024);
    server.write_all(&message(b'C', b"COPY 0\0")).await.unwrap();
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn the_reason_is_told_when_nothing_can_be_sent_any_more() {
    let (mut stream, mut server) = stream(1024);
    server.write_all(&keepalive(1)).await.unwrap();
    server.write_all(&message(b'E', b"C57P01\0Mgo away\0\0")).await.unwrap();
    drop(server);
    let e = stream.status_update(Lsn(1), Lsn(1), Lsn(1), false).await.unwrap_err();
    assert_eq!(ServerError::of(&e).unwrap().code, "57P01");
}

#[tokio::test]
async fn an_announced_length_takes_no_memory() {
    let (ours, mut server) = duplex(1024);
    let mut channel = Channel::new(Box::new(ours));
    server.write_all(b"d\x40\0\0\0").await.unwrap();
    assert!(timeout(MOMENT, channel.receive()).await.is_err(), "1 GiB may yet arrive");
    assert!(channel.inbox.capacity() <= 2 * READ_BYTES);

    for length in [b"d\x40\0\0\x01", b"d\x7f\xff\xff\xff", b"d\0\0\0\x03", b"d\xff\xff\xff\xff"] {
        let (mut stream, mut server) = stream(1024);
        server.write_all(length).await.unwrap();
        let e = stream.next().await.unwrap_err();
        assert!(e.what().contains("does not keep to the protocol"), "{e}");
    }
}

#[tokio::test]
async fn settings_and_notices_in_between_are_no_messages() {
    let (ours, mut server) = duplex(1024);
    let mut channel = Channel::new(Box::new(ours));
    server.write_all(&message(b'S', b"server_version\x0016.1\0")).await.unwrap();
    server.write_all(&message(b'N', b"SNOTICE\0Mhello\0\0")).await.unwrap();
    server.write_all(&message(b'W', b"\0\0\0")).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap(), Inbound::CopyBoth));
    assert_eq!(channel.parameter("server_version"), Some("16.1"));
}

fn endpoint(password: Option<&str>) -> Endpoint {
    Endpoint {
        address: Address::Unix { path: "/nowhere".into() },
        user: "u".into(),
        password: password.map(str::to_owned),
        dbname: "d".into(),
        tls: None,
        tls_required: false,
        connect_timeout: None,
    }
}

/// What comes of a startup where the server says `bytes`, and what it was sent.
async fn start_with(bytes: &[u8], password: Option<&str>) -> (Result<i32>, Vec<u8>) {
    let (ours, mut server) = duplex(64 * 1024);
    let mut channel = Channel::new(Box::new(ours));
    server.write_all(bytes).await.unwrap();
    server.shutdown().await.unwrap();
    let started = startup::start(&mut channel, &endpoint(password), &[("a", "b")]).await;
    drop(channel);
    let mut sent = Vec::new();
    server.read_to_end(&mut sent).await.unwrap();
    (started, sent)
}

#[tokio::test]
async fn a_password_goes_only_where_it_is_asked_for() {
    let ready =
        [message(b'R', b"\0\0\0\0"), message(b'K', b"\0\0\0\x2a\0\0\0\0"), message(b'Z', b"I")]
            .concat();
    let (pid, sent) = start_with(&ready, Some("geheim")).await;
    assert_eq!(pid.unwrap(), 42);
    let startup = b"\0\x03\0\0user\0u\0database\0d\0replication\0database\0a\0b\0\0";
    assert_eq!(&sent[4..], startup);

    let clear = [message(b'R', b"\0\0\0\x03"), ready].concat();
    let (pid, sent) = start_with(&clear, Some("geheim")).await;
    assert_eq!(pid.unwrap(), 42);
    assert!(sent.ends_with(b"p\0\0\0\x0bgeheim\0"));

    let (error, _) = start_with(&clear, None).await;
    assert!(error.unwrap_err().to_string().contains("wants a password for \"u\". Give one"));
}

#[tokio::test]
async fn a_server_that_proves_nothing_is_not_believed() {
    let sasl = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let welcome = message(b'R', b"\0\0\0\0");
    let (error, sent) = start_with(&[sasl, welcome].concat(), Some("geheim")).await;
    let e = error.unwrap_err().to_string();
    assert!(e.contains("instead of the SCRAM challenge"), "{e}");
    let response = b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=";
    assert!(sent.windows(response.len()).any(|part| part == response));

    let plus_only = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0");
    let (error, _) = start_with(&plus_only, Some("geheim")).await;
    assert!(error.unwrap_err().to_string().contains("which is not supported"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Pieces of protocol in any order and with any content, so that the talk gets beyond its start.
fn any_talk() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(b"RSKZENDTCdcWG!".to_vec());
    let start = prop_oneof![
        (0..13u8).prop_map(|kind| vec![0, 0, 0, kind]),
        Just(vec![]),
        Just(b"w".to_vec()),
        Just(b"k".to_vec()),
    ];
    let body =
        (start, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(a, b)| [a, b].concat());
    let piece = prop_oneof![
        8 => (tag, body).prop_map(|(tag, body)| message(tag, &body)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_server_makes_the_stream_panic(talk in any_talk()) {
        runtime().block_on(async {
            let (mut stream, mut server) = stream(64 * 1024);
            server.write_all(&talk).await.unwrap();
            drop(server);
            while let Ok(Some(_)) = stream.next().await {}
        });
    }

    #[test]
    fn no_server_makes_the_startup_panic(talk in any_talk()) {
        let _ = runtime().block_on(start_with(&talk, Some("geheim")));
    }
}
