//! A stage to try everything on: a private PostgreSQL, a table, and live traffic that knows what
//! the table must hold. Used by `pgwraith demo` and by the tests.

pub mod cluster;
pub mod orders;
pub mod traffic;
