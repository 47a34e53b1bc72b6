//! pgoutput, protocol version 1, as data: bytes in, one [`Message`] or a [`DecodeError`] out, no
//! I/O. The layout is that of PostgreSQL's documentation, "Logical Replication Message Formats".
//!
//! Byte strings in a message share the memory of the buffer they arrived in, which is much larger
//! than they are: copy what is kept for longer than the message.

use bytes::Bytes;

use super::cursor::Cursor;
pub use super::cursor::DecodeError;
use crate::pg::Lsn;

/// One message of the logical replication stream. Times are microseconds since 2000-01-01.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction's changes follow. Transactions come whole, in the order of their commits.
    Begin {
        final_lsn: Lsn,
        xid: u32,
        commit_time: i64,
    },
    /// The transaction that began last is complete.
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time: i64,
    },
    /// The transaction was replicated to this server from elsewhere.
    Origin {
        commit_lsn: Lsn,
        name: Bytes,
    },
    /// A relation's shape; comes before its first change, and again after it may have changed.
    Relation(Relation),
    /// The name of a type that is not built in.
    Type {
        oid: u32,
        schema: Bytes,
        name: Bytes,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    /// `old` is there when the key changed or the replica identity is FULL.
    Update {
        relation: u32,
        old: Option<OldTuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// From `pg_logical_emit_message`. One that is not transactional comes outside of Begin and
    /// Commit, and before transactions that were still open when it was written.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: Bytes,
        content: Bytes,
    },
}

/// A relation as the publication shows it: only published columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    /// Empty for `pg_catalog`.
    pub schema: Bytes,
    pub name: Bytes,
    /// As in `pg_class.relreplident`.
    pub replica_identity: u8,
    pub columns: Vec<Column>,
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Whether it belongs to the replica identity.
    pub is_key: bool,
    pub name: Bytes,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// A row as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldTuple {
    pub kind: OldKind,
    pub tuple: Tuple,
}

/// What an [`OldTuple`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKind {
    /// The replica identity's columns; all others are [`Value::Null`].
    Key,
    /// All columns (REPLICA IDENTITY FULL).
    Full,
}

/// A row: one value for each column of the [`Relation`].
pub type Tuple = Vec<Value>;

/// A column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOASTed value that the change did not touch and that was not sent.
    Unchanged,
    /// In the type's text form.
    Text(Bytes),
    /// In the type's binary form.
    Binary(Bytes),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Decodes one message, all of it.
pub fn decode(message: Bytes) -> Result<Message> {
    let mut cursor = Cursor::new(message);
    let decoded = match cursor.u8("a message type")? {
        b'B' => begin(cursor.named("Begin")),
        b'C' => commit(cursor.named("Commit")),
        b'O' => origin(cursor.named("Origin")),
        b'R' => relation(cursor.named("Relation")),
        b'Y' => type_name(cursor.named("Type")),
        b'I' => insert(cursor.named("Insert")),
        b'U' => update(cursor.named("Update")),
        b'D' => delete(cursor.named("Delete")),
        b'T' => truncate(cursor.named("Truncate")),
        b'M' => logical(cursor.named("Message")),
        other => {
            let expected = format!("a message type of protocol version 1, not {other:#04x},");
            Err(cursor.fail_before(expected))
        }
    }?;
    cursor.end()?;
    Ok(decoded)
}

fn begin(cursor: &mut Cursor) -> Result<Message> {
    Ok(Message::Begin {
        final_lsn: cursor.lsn("the final LSN")?,
        commit_time: cursor.i64("the commit time")?,
        xid: cursor.u32("the transaction id")?,
    })
}

fn commit(cursor: &mut Cursor) -> Result<Message> {
    cursor.flags(0, "flags, none set")?;
    Ok(Message::Commit {
        commit_lsn: cursor.lsn("the commit LSN")?,
        end_lsn: cursor.lsn("the end LSN")?,
        commit_time: cursor.i64("the commit time")?,
    })
}

fn origin(cursor: &mut Cursor) -> Result<Message> {
    Ok(Message::Origin {
        commit_lsn: cursor.lsn("the origin's commit LSN")?,
        name: cursor.cstr("the origin's name")?,
    })
}

fn relation(cursor: &mut Cursor) -> Result<Message> {
    Ok(Message::Relation(Relation {
        oid: cursor.u32("the relation's oid")?,
        schema: cursor.cstr("the relation's schema")?,
        name: cursor.cstr("the relation's name")?,
        replica_identity: cursor.u8("the replica identity")?,
        columns: columns(cursor)?,
    }))
}

fn columns(cursor: &mut Cursor) -> Result<Vec<Column>> {
    // Flags, an empty name, type and modifier.
    const SMALLEST: usize = 1 + 1 + 4 + 4;
    let count = cursor.count16("the number of columns")?;
    let mut columns = cursor.room_for(count, SMALLEST);
    for _ in 0..count {
        columns.push(Column {
            is_key: cursor.bool("a column's flags, 0 or 1")?,
            name: cursor.cstr("a column's name")?,
            type_oid: cursor.u32("a column's type oid")?,
            type_modifier: cursor.i32("a column's type modifier")?,
        });
    }
    Ok(columns)
}

fn type_name(cursor: &mut Cursor) -> Result<Message> {
    Ok(Message::Type {
        oid: cursor.u32("the type's oid")?,
        schema: cursor.cstr("the type's schema")?,
        name: cursor.cstr("the type's name")?,
    })
}

fn insert(cursor: &mut Cursor) -> Result<Message> {
    let relation = cursor.u32("the relation's oid")?;
    Ok(Message::Insert { relation, new: new_tuple(cursor)? })
}

fn update(cursor: &mut Cursor) -> Result<Message> {
    let relation = cursor.u32("the relation's oid")?;
    let old = if cursor.next_is(b'N') { None } else { Some(old_tuple(cursor)?) };
    Ok(Message::Update { relation, old, new: new_tuple(cursor)? })
}

fn delete(cursor: &mut Cursor) -> Result<Message> {
    let relation = cursor.u32("the relation's oid")?;
    Ok(Message::Delete { relation, old: old_tuple(cursor)? })
}

fn old_tuple(cursor: &mut Cursor) -> Result<OldTuple> {
    const KIND: &str = "an old key or an old tuple ('K' or 'O')";
    let kind = match cursor.u8(KIND)? {
        b'K' => OldKind::Key,
        b'O' => OldKind::Full,
        _ => return Err(cursor.fail_before(KIND)),
    };
    Ok(OldTuple { kind, tuple: tuple(cursor)? })
}

fn new_tuple(cursor: &mut Cursor) -> Result<Tuple> {
    const KIND: &str = "a new tuple ('N')";
    match cursor.u8(KIND)? {
        b'N' => tuple(cursor),
        _ => Err(cursor.fail_before(KIND)),
    }
}

fn tuple(cursor: &mut Cursor) -> Result<Tuple> {
    let count = cursor.count16("the number of values")?;
    let mut values = cursor.room_for(count, 1);
    for _ in 0..count {
        values.push(value(cursor)?);
    }
    Ok(values)
}

fn value(cursor: &mut Cursor) -> Result<Value> {
    const KIND: &str = "a kind of value ('n', 'u', 't' or 'b')";
    match cursor.u8(KIND)? {
        b'n' => Ok(Value::Null),
        b'u' => Ok(Value::Unchanged),
        b't' => Ok(Value::Text(cursor.counted_bytes("a text value's length and bytes")?)),
        b'b' => Ok(Value::Binary(cursor.counted_bytes("a binary value's length and bytes")?)),
        _ => Err(cursor.fail_before(KIND)),
    }
}

fn truncate(cursor: &mut Cursor) -> Result<Message> {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;
    let count = cursor.count32("the number of relations")?;
    let flags = cursor.flags(CASCADE | RESTART_IDENTITY, "flags, 0 to 3")?;
    let mut relations = cursor.room_for(count, size_of::<u32>());
    for _ in 0..count {
        relations.push(cursor.u32("a relation's oid")?);
    }
    Ok(Message::Truncate {
        relations,
        cascade: flags & CASCADE != 0,
        restart_identity: flags & RESTART_IDENTITY != 0,
    })
}

fn logical(cursor: &mut Cursor) -> Result<Message> {
    Ok(Message::Logical {
        transactional: cursor.bool("flags, 0 or 1")?,
        lsn: cursor.lsn("the message's LSN")?,
        prefix: cursor.cstr("the prefix")?,
        content: cursor.counted_bytes("the content's length and bytes")?,
    })
}

#[cfg(test)]
mod generate;
#[cfg(test)]
mod tests;
