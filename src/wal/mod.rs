//! The write-ahead log as a stream of changes: our own replication client.
//!
//! A logical slot and a publication make the server send, through a walsender, every committed
//! transaction that touches a published table: its changes between [`Message::Begin`] and
//! [`Message::Commit`], whole and in the order of commits. That order is all the stream proves, and
//! all that is asked of it: which keys changed, never what the rows hold.
//!
//! **What is a proof.** Everything that committed before a transaction is delivered before it. So
//! a *fence*, a message written by `pg_logical_emit_message(true, …)` in its own small transaction,
//! proves by its return ([`Message::Logical`]) that every commit ahead of it in the log has been
//! seen. It proves the stream, not the capture: a table taken off the publication is silent while
//! fences still return.
//!
//! **What is not.** A commit is in the log before it is visible to snapshots; the transaction id of
//! [`Message::Begin`], widened by [`XidWidener`], tells whether a snapshot sees it. A keepalive's
//! position says that nothing before it is left to send, and nothing about what was done with what
//! was sent: the slot's position moves only by [`ReplicationStream::status_update`], to where the
//! receiver says that everything is safe, and after a break the stream starts there again.
//!
//! The way of a byte: `endpoint` gets a connection, `startup` an authenticated session
//! ([`ReplicationConn`]), `slot` speaks the commands, `channel` cuts messages, [`frame`] reads
//! what they say about the log and [`mod@decode`] the changes inside. The last two are pure, and no
//! bytes make them panic.

mod channel;
mod cursor;
pub mod decode;
mod endpoint;
pub mod frame;
mod open;
mod server_error;
mod slot;
mod socket;
mod startup;
mod stream;
mod xid;

pub use decode::{Column, DecodeError, Message, OldKind, OldTuple, Relation, Tuple, Value, decode};
pub use endpoint::{Address, Endpoint};
pub use frame::Frame;
pub use server_error::ServerError;
pub(crate) use slot::create_slot_sql;
pub use slot::{OriginFilter, StreamOptions, SystemIdentity};
pub use socket::{ReplicationConn, Row};
pub use stream::ReplicationStream;
pub use xid::XidWidener;
