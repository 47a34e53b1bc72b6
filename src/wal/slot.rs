//! The replication commands about slots. Syntax after PostgreSQL's documentation, "Streaming
//! Replication Protocol", and "Logical Streaming Replication Parameters".

use std::fmt::Write;
use std::str::FromStr;

use super::socket::{ReplicationConn, Row};
use super::stream::ReplicationStream;
use crate::error::{Error, Result};
use crate::pg::{Lsn, quote_ident};

/// The answer to IDENTIFY_SYSTEM: which cluster this is, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: String,
    pub timeline: i32,
    /// What is flushed.
    pub xlogpos: Lsn,
    pub dbname: String,
}

/// Which changes a stream carries, by where they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginFilter {
    /// All changes.
    Any,
    /// Only changes made on this server by sessions without a replication origin.
    None,
}

/// What to stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions<'a> {
    pub slot: &'a str,
    /// Transactions committed before it are left out; the slot's own position counts where it is
    /// later.
    pub start: Lsn,
    pub publication: &'a str,
    /// Values in the types' binary form instead of text.
    pub binary: bool,
    /// PostgreSQL 16 and newer; 15 must be left with `None`.
    pub origin: Option<OriginFilter>,
}

impl ReplicationConn {
    /// Asks which cluster this is.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let row = one_row(self.simple_query("IDENTIFY_SYSTEM").await?)?;
        Ok(SystemIdentity {
            system_identifier: text(&row, 0)?.to_owned(),
            timeline: parsed(&row, 1)?,
            xlogpos: parsed(&row, 2)?,
            dbname: text(&row, 3)?.to_owned(),
        })
    }

    /// Creates a lasting pgoutput slot and returns the position it is consistent from. Waits for
    /// every write transaction of the whole server that is open now.
    ///
    /// From 17 on (`version`, as in `server_version_num`) standbys may synchronize it.
    pub async fn create_slot(&mut self, name: &str, version: i32) -> Result<Lsn> {
        let row = one_row(self.simple_query(&create_slot_sql(name, version)).await?)?;
        parsed(&row, 1)
    }

    /// Drops a slot, waiting for whoever streams from it.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        self.simple_query(&drop_slot_sql(name)).await.map(drop)
    }

    /// Starts to stream from a slot.
    pub async fn start(self, options: StreamOptions<'_>) -> Result<ReplicationStream> {
        self.start_replication(&start_sql(options)).await
    }
}

/// The replication command that makes a slot.
///
/// No snapshot is exported: our snapshots are taken later, after Invariant 1's wait.
pub(crate) fn create_slot_sql(name: &str, version: i32) -> String {
    let name = quote_ident(name);
    let failover = if version >= 170_000 { ", FAILOVER true" } else { "" };
    format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput (SNAPSHOT 'nothing'{failover})")
}

fn drop_slot_sql(name: &str) -> String {
    format!("DROP_REPLICATION_SLOT {} WAIT", quote_ident(name))
}

fn start_sql(options: StreamOptions<'_>) -> String {
    let mut sql = format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {}, \
         messages 'true', binary '{}'",
        quote_ident(options.slot),
        options.start,
        // A list of identifiers inside a string: quoted twice.
        command_literal(&quote_ident(options.publication)),
        options.binary,
    );
    if let Some(origin) = options.origin {
        let value = match origin {
            OriginFilter::Any => "any",
            OriginFilter::None => "none",
        };
        let _ = write!(sql, ", origin '{value}'");
    }
    sql.push(')');
    sql
}

/// The replication grammar has strings of its own: no `E''`, and a backslash is a backslash.
fn command_literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn one_row(rows: Vec<Row>) -> Result<Row> {
    let count = rows.len();
    let mut rows = rows.into_iter();
    match (rows.next(), count) {
        (Some(row), 1) => Ok(row),
        _ => Err(Error::failed(format!("a replication command returned {count} rows, not one"))),
    }
}

fn text(row: &Row, column: usize) -> Result<&str> {
    let value = row.get(column).and_then(Option::as_deref);
    value.and_then(|value| std::str::from_utf8(value).ok()).ok_or_else(|| {
        Error::failed(format!("a replication command's answer has no text in column {column}"))
    })
}

fn parsed<T: FromStr>(row: &Row, column: usize) -> Result<T> {
    let value = text(row, column)?;
    value.parse().map_err(|_| {
        Error::failed(format!("a replication command answered {value:?} in column {column}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_for_the_replication_grammar() {
        assert_eq!(
            create_slot_sql("s_1", 160_004),
            "CREATE_REPLICATION_SLOT \"s_1\" LOGICAL pgoutput (SNAPSHOT 'nothing')"
        );
        assert_eq!(
            create_slot_sql("s_1", 170_000),
            "CREATE_REPLICATION_SLOT \"s_1\" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)"
        );
        assert_eq!(drop_slot_sql("s"), "DROP_REPLICATION_SLOT \"s\" WAIT");
        let mut options = StreamOptions {
            slot: "s",
            start: Lsn(0x1_0000_00ff),
            publication: "it's, a\"b\\c",
            binary: true,
            origin: None,
        };
        let common = "START_REPLICATION SLOT \"s\" LOGICAL 1/FF (proto_version '1', \
                      publication_names '\"it''s, a\"\"b\\c\"', messages 'true', binary ";
        assert_eq!(start_sql(options), format!("{common}'true')"));
        options.binary = false;
        options.origin = Some(OriginFilter::None);
        assert_eq!(start_sql(options), format!("{common}'false', origin 'none')"));
    }

    #[test]
    fn answers_are_read_or_refused() {
        let row: Row = vec![Some("16/B3".into()), None, Some("\u{fc}".into())];
        assert_eq!(parsed::<Lsn>(&row, 0).unwrap(), Lsn(0x16_0000_00b3));
        assert_eq!(text(&row, 2).unwrap(), "ü");
        assert!(
            text(&row, 1).is_err() && text(&row, 3).is_err() && parsed::<i32>(&row, 0).is_err()
        );
        assert!(one_row(vec![]).is_err() && one_row(vec![vec![], vec![]]).is_err());
    }
}
