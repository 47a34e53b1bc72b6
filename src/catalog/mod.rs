//! The table and all that hangs on it, read once into one model.
//!
//! The model is the one place that knows what can hang on a table. What follows the table through a
//! swap is [`Carried`]; what this version cannot carry becomes an [`Attachment`], and preflight refuses it by name; what
//! nobody here has heard of still shows up through `pg_depend` and is refused too.

mod attachments;
mod carried;
mod fingerprint;
pub mod meaning;
mod model;
mod naming;
mod own;
mod parts;
mod passing;
mod read;
mod stamp;

pub use attachments::{
    Attachment, AttachmentsReader, attachments, check_attachments, invalid_indexes, subscriptions,
};
pub use carried::{Carried, TRIAL, carried};
pub use fingerprint::{Baseline, Fingerprint, FingerprintReader, Watched, fingerprint};
pub use model::{
    Column, Constraint, ForeignKey, Grant, Index, Key, Partner, Sequence, Statistics, SystemColumn,
    Table,
};
pub use naming::naming;
pub use own::{OwnKind, OwnOfPart, own_of_parts};
pub use parts::{Part, new_leaf, relations as tree, scanned};
pub use passing::passing;
pub use read::{find, name_of, read, read_named};
pub use stamp::{Mentions, MentionsReader, Stamp, StampReader};
