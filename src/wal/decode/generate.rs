//! Messages for tests: an encoder and generators.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use crate::pg::Lsn;
use crate::wal::decode::*;

/// The inverse of [`decode`], after the same documentation.
pub fn encode(message: &Message) -> Bytes {
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

pub fn any_message() -> impl Strategy<Value = Message> {
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
