use bytes::Bytes;
use proptest::prelude::*;

use super::generate::{any_message, encode};
use super::*;

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
        let _ = decode(bytes.into());
    }

    /// Random bytes rarely get past the first field; a damaged message gets everywhere.
    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        message in any_message(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encode(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(bytes.into());
    }

    #[test]
    fn what_was_encoded_is_decoded(message in any_message()) {
        prop_assert_eq!(decode(encode(&message)).unwrap(), message);
    }

    #[test]
    fn a_message_cut_short_or_too_long_is_an_error(message in any_message(), more: u8) {
        let bytes = encode(&message);
        for end in 0..bytes.len() {
            prop_assert!(decode(bytes.slice(..end)).is_err(), "cut at {}", end);
        }
        let longer = [&bytes[..], &[more]].concat();
        let e = decode(longer.into()).unwrap_err();
        prop_assert_eq!((e.offset, &*e.expected), (bytes.len(), "the end of the message"));
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Every kind of message, byte by byte from the documentation and not through our own encoder.
#[test]
fn messages_made_by_hand_are_read() {
    let cases: [(&'static [u8], Message); 13] = [
        (
            b"B\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x07\xff\xff\xff\xfe",
            Message::Begin { final_lsn: Lsn(0x1_0000_0002), xid: u32::MAX - 1, commit_time: 7 },
        ),
        (
            b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff",
            Message::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: -1 },
        ),
        (b"O\0\0\0\0\0\0\0\x09pg_1\0", Message::Origin { commit_lsn: Lsn(9), name: text("pg_1") }),
        (
            b"R\0\0\x40\0s\0t\0d\0\x02\x01id\0\0\0\0\x14\xff\xff\xff\xff\0v\0\0\0\0\x19\0\0\0\x08",
            Message::Relation(Relation {
                oid: 0x4000,
                schema: text("s"),
                name: text("t"),
                replica_identity: b'd',
                columns: vec![
                    Column { is_key: true, name: text("id"), type_oid: 20, type_modifier: -1 },
                    Column { is_key: false, name: text("v"), type_oid: 25, type_modifier: 8 },
                ],
            }),
        ),
        (
            b"Y\0\0\x40\x01s\0mood\0",
            Message::Type { oid: 0x4001, schema: text("s"), name: text("mood") },
        ),
        (
            b"I\0\0\0\x05N\0\x03nt\0\0\0\x02abb\0\0\0\x01\xff",
            Message::Insert {
                relation: 5,
                new: vec![
                    Value::Null,
                    Value::Text(text("ab")),
                    Value::Binary(Bytes::from_static(b"\xff")),
                ],
            },
        ),
        (
            b"U\0\0\0\x05N\0\x01u",
            Message::Update { relation: 5, old: None, new: vec![Value::Unchanged] },
        ),
        (
            b"U\0\0\0\x05K\0\x01t\0\0\0\x011N\0\x01t\0\0\0\0",
            Message::Update {
                relation: 5,
                old: Some(OldTuple { kind: OldKind::Key, tuple: vec![Value::Text(text("1"))] }),
                new: vec![Value::Text(Bytes::new())],
            },
        ),
        (
            b"D\0\0\0\x05K\0\x01n",
            Message::Delete {
                relation: 5,
                old: OldTuple { kind: OldKind::Key, tuple: vec![Value::Null] },
            },
        ),
        (
            b"D\0\0\0\x05O\0\0",
            Message::Delete { relation: 5, old: OldTuple { kind: OldKind::Full, tuple: vec![] } },
        ),
        (
            b"T\0\0\0\x02\x03\0\0\0\x05\0\0\0\x06",
            Message::Truncate { relations: vec![5, 6], cascade: true, restart_identity: true },
        ),
        (
            b"T\0\0\0\0\x02",
            Message::Truncate { relations: vec![], cascade: false, restart_identity: true },
        ),
        (
            b"M\x01\0\0\0\0\0\0\0\x08p\0\0\0\0\x02hi",
            Message::Logical {
                transactional: true,
                lsn: Lsn(8),
                prefix: text("p"),
                content: text("hi"),
            },
        ),
    ];
    for (bytes, message) in cases {
        assert_eq!(decode(Bytes::from_static(bytes)), Ok(message));
    }
}

/// Counts are the server's word; memory follows the bytes that are there.
#[test]
fn lies_are_errors_that_name_their_place() {
    let cases: [(&'static [u8], &str, usize, &str); 11] = [
        (b"", "unknown", 0, "a message type"),
        (b"S\0", "unknown", 0, "a message type of protocol version 1, not 0x53,"),
        (b"C\x01", "Commit", 1, "flags, none set"),
        (b"R\0\0\0\x01s\0t\0d\xff\xff", "Relation", 10, "the number of columns"),
        (b"R\0\0\0\x01s\0t\0d\x7f\xff", "Relation", 12, "a column's flags, 0 or 1"),
        (b"I\0\0\0\x01K", "Insert", 5, "a new tuple ('N')"),
        (b"U\0\0\0\x01N\0\x01x", "Update", 8, "a kind of value ('n', 'u', 't' or 'b')"),
        (b"D\0\0\0\x01K\0\x01t\xff\xff\xff\xff", "Delete", 9, "a text value's length and bytes"),
        (b"D\0\0\0\x01K\0\x01b\x7f\xff\xff\xff", "Delete", 13, "a binary value's length and bytes"),
        (b"T\xff\xff\xff\xff\0", "Truncate", 1, "the number of relations"),
        (b"T\x7f\xff\xff\xff\0\0\0\0\x01", "Truncate", 10, "a relation's oid"),
    ];
    for (bytes, message, offset, expected) in cases {
        let e = decode(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!((e.message, e.offset, &*e.expected), (message, offset, expected), "{bytes:?}");
    }
}

#[test]
fn an_error_reads_well() {
    let e = decode(Bytes::from_static(b"C\x01")).unwrap_err();
    assert_eq!(e.to_string(), "malformed Commit message: expected flags, none set at byte 1 of 2");
}

/// What PostgreSQL 15 sent for `BEGIN; INSERT; UPDATE v; UPDATE id; DELETE; INSERT INTO t2;
/// UPDATE t2; pg_logical_emit_message(true, 'fence', 'hello'); COMMIT`, then a message without a
/// transaction, `TRUNCATE … RESTART IDENTITY CASCADE`, and a transaction with an origin. `t2` has
/// REPLICA IDENTITY FULL, values are binary.
const RECORDED: [&str; 18] = [
    "4200000000015310d0000303efa723398c000002d7",
    "59000040057075626c6963006d6f6f6400",
    "52000040097075626c69630074006400040169640000000014ffffffff00760000000019ffffffff006e0000\
     0006a4ffffffff006d0000004005ffffffff",
    "49000040094e000462000000080000000000000001620000000178620000000c0002000000000002000113886200\
     00000162",
    "55000040094e0004620000000800000000000000016e620000000c000200000000000200011388620000000162",
    "55000040094b0004620000000800000000000000016e6e6e4e0004620000000800000000000000026e620000000c\
     000200000000000200011388620000000162",
    "44000040094b0004620000000800000000000000026e6e6e",
    "52000040107075626c6963007432006600010169640000000017ffffffff",
    "49000040104e0001620000000400000007",
    "55000040104f00016200000004000000074e0001620000000400000008",
    "4d0100000000015310d066656e6365000000000568656c6c6f",
    "430000000000015310d00000000001531100000303efa723398c",
    "4d0000000000015311386e7400000000037a7a7a",
    "420000000001532268000303efa72341a3000002d8",
    "5400000002030000400900004010",
    "4f00000000000000996f3100",
    "49000040104e0001620000000400000009",
    "4300000000000153275000000000015327b8000303efa723450a",
];

fn recorded() -> impl Iterator<Item = Bytes> {
    RECORDED.iter().map(|hex| {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    })
}

#[test]
fn what_a_server_sent_is_read_and_made_again_to_the_byte() {
    for bytes in recorded() {
        assert_eq!(encode(&decode(bytes.clone()).unwrap()), bytes);
    }
    let messages: Vec<Message> = recorded().map(|bytes| decode(bytes).unwrap()).collect();
    let key = |id: u8| Value::Binary(Bytes::from(vec![0, 0, 0, 0, 0, 0, 0, id]));
    let Message::Update { old: Some(old), new, .. } = &messages[5] else { panic!() };
    assert_eq!((old.kind, &old.tuple[0], &new[0]), (OldKind::Key, &key(1), &key(2)));
    let Message::Update { old: Some(old), .. } = &messages[9] else { panic!() };
    assert_eq!(old.kind, OldKind::Full);
    assert!(matches!(messages[0], Message::Begin { xid: 727, final_lsn: Lsn(0x15310d0), .. }));
    assert!(matches!(&messages[15], Message::Origin { commit_lsn: Lsn(0x99), .. }));
}

#[test]
fn what_a_server_sent_is_an_error_when_cut_anywhere() {
    for bytes in recorded() {
        for end in 0..bytes.len() {
            assert!(decode(bytes.slice(..end)).is_err(), "{bytes:?} cut at {end}");
        }
    }
}
