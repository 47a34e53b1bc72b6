//! What every talk with PostgreSQL shares: log positions, names.

pub mod lsn;
pub mod name;

pub use lsn::Lsn;
pub use name::{QualifiedName, quote_ident, quote_literal};
