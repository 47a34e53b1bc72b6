//! Where and how to connect: what libpq reads (connection string, service file, environment,
//! password file, certificates), resolved into one [`ConnInfo`] that SQL sessions and the
//! replication socket share.
//!
//! Everything follows libpq, so that a connection string which works in `psql` works here; a
//! security setting that cannot be honoured is refused by name instead of being ignored.

mod hosts;
mod keyword;
mod layers;
mod parse;
mod passfile;
mod refuse;
mod resolve;
mod service;
mod settings;
mod surroundings;
mod tls;
mod uri;

pub use hosts::{Address, Host, Password};
pub use refuse::secrets as refuse_secrets;
pub use resolve::ConnInfo;
pub use tls::{RootCert, SslSettings, TlsMode, UseTls, client_config};
