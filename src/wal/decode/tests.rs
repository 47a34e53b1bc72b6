use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// The inverse of [`decode`], after the same documentation.
fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin { final_lsn, xid, commit_time } => {
            out.put_u8(b'B');
            out.put_u64(final_lsn.0);
            out.put_i64(*commit_time);
            out.put_u32(*xid);
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.put_slice(b"C\0");
            out.put_u64(commit_lsn.0);
            out.put_u64(end_lsn.0);
            out.put_i64(*commit_time);
        }
        Message::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(commit_lsn.0);
            put_cstr(&mut out, name);
        }
        Message::Relation(relation) => put_relation(&mut out, relation),
        Message::Type { oid, schema, name } => {
            out.put_u8(b'Y');
            out.put_u32(*oid);
            put_cstr(&mut out, schema);
            put_cstr(&mut out, name);
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            put_tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            put_old(&mut out, old);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.put_u8(b'T');
            out.put_u32(relations.len() as u32);
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|oid| out.put_u32(*oid));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8((*transactional).into());
            out.put_u64(lsn.0);
            put_cstr(&mut out, prefix);
            put_counted(&mut out, content);
        }
    }
    out.freeze()
}

fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

fn put_counted(out: &mut BytesMut, content: &[u8]) {
    out.put_u32(content.len() as u32);
    out.put_slice(content);
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.oid);
    put_cstr(out, &relation.schema);
    put_cstr(out, &relation.name);
    out.put_u8(relation.replica_identity);
    out.put_u16(relation.columns.len() as u16);
    for column in &relation.columns {
        out.put_u8(column.is_key.into());
        put_cstr(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn put_old(out: &mut BytesMut, old: &OldTuple) {
    let kind = match old.kind {
        OldKind::Key => b'K',
        OldKind::Full => b'O',
    };
    put_tuple(out, kind, &old.tuple);
}

fn put_tuple(out: &mut BytesMut, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(tuple.len() as u16);
    for value in tuple {
        match value {
            Value::Null => out.put_u8(b'n'),
            Value::Unchanged => out.put_u8(b'u'),
            Value::Text(text) => {
                out.put_u8(b't');
                put_counted(out, text);
            }
            Value::Binary(binary) => {
                out.put_u8(b'b');
                put_counted(out, binary);
            }
        }
    }
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn any_name() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(1..=u8::MAX, 0..20).prop_map(Bytes::from)
}

fn any_lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        any_bytes().prop_map(Value::Text),
        any_bytes().prop_map(Value::Binary),
    ];
    prop::collection::vec(value, 0..6)
}

fn any_old() -> impl Strategy<Value = OldTuple> {
    (prop_oneof![Just(OldKind::Key), Just(OldKind::Full)], any_tuple())
        .prop_map(|(kind, tuple)| OldTuple { kind, tuple })
}

fn any_relation() -> impl Strategy<Value = Relation> {
    let column = (any::<bool>(), any_name(), any::<u32>(), any::<i32>()).prop_map(
        |(is_key, name, type_oid, type_modifier)| Column { is_key, name, type_oid, type_modifier },
    );
    let columns = prop::collection::vec(column, 0..5);
    (any::<u32>(), any_name(), any_name(), any::<u8>(), columns).prop_map(
        |(oid, schema, name, replica_identity, columns)| Relation {
            oid,
            schema,
            name,
            replica_identity,
            columns,
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any_lsn(), any::<u32>(), any::<i64>()).prop_map(|(final_lsn, xid, commit_time)| {
            Message::Begin { final_lsn, xid, commit_time }
        }),
        (any_lsn(), any_lsn(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, commit_time)| {
            Message::Commit { commit_lsn, end_lsn, commit_time }
        }),
        (any_lsn(), any_name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
        any_relation().prop_map(Message::Relation),
        (any::<u32>(), any_name(), any_name()).prop_map(|(oid, schema, name)| Message::Type {
            oid,
            schema,
            name
        }),
        (any::<u32>(), any_tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(any_old()), any_tuple())
            .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), any_old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (prop::collection::vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| {
                Message::Truncate { relations, cascade, restart_identity }
            }
        ),
        (any::<bool>(), any_lsn(), any_name(), any_bytes()).prop_map(
            |(transactional, lsn, prefix, content)| {
                Message::Logical { transactional, lsn, prefix, content }
            }
        ),
    ]
}

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
