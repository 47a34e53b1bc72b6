//! What every talk with PostgreSQL shares: sessions with pinned settings, names and their quoting,
//! log positions, snapshots, values as the server's own bytes.

pub mod connector;
pub mod give_way;
pub mod lsn;
pub mod name;
pub mod raw;
pub mod session;
pub mod snapshot;
pub mod sqlstate;
pub mod unanswered;
pub mod who;

pub use connector::Connector;
pub use give_way::{GivesWay, Ran};
pub use lsn::Lsn;
pub use name::{QualifiedName, quote_ident, quote_literal, shell_quoted, shell_word};
pub use raw::{Lossy, Raw, RawArray};
pub use session::Session;
pub use snapshot::Snapshot;
pub use who::Who;
