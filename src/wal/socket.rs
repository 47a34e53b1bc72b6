//! The replication connection before the stream: connect, and commands answered with rows.

use bytes::Bytes;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::channel::{Channel, Inbound};
use super::endpoint::{Endpoint, dial, in_time};
use super::startup;
use super::stream::ReplicationStream;
use crate::error::{Error, Result};

/// One row of a simple query: text, or NULL.
pub type Row = Vec<Option<Bytes>>;

/// A connection to a walsender of one database that waits for commands.
///
/// Its methods are not cancel safe: drop the connection with an abandoned future.
pub struct ReplicationConn {
    channel: Channel,
    pid: i32,
}

impl ReplicationConn {
    /// Connects and authenticates. `parameters` are settings for the session beside user,
    /// database and replication, such as `application_name`.
    pub async fn connect(endpoint: &Endpoint, parameters: &[(&str, &str)]) -> Result<Self> {
        Self::dial(endpoint, parameters)
            .await
            .map_err(|e| e.context(format!("no replication connection to {}", endpoint.address)))
    }

    async fn dial(endpoint: &Endpoint, parameters: &[(&str, &str)]) -> Result<Self> {
        let mut channel = Channel::new(dial(endpoint).await?);
        let pid = in_time(endpoint, startup::start(&mut channel, endpoint, parameters)).await?;
        Ok(ReplicationConn { channel, pid })
    }

    /// The walsender's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the server reported for a setting at the start, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.channel.parameter(name)
    }

    /// Runs a command or SQL; rows of all its results come together.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.channel.queue(|out| frontend::query(sql, out))?;
        self.channel.send().await?;
        let mut rows = Vec::new();
        loop {
            match self.channel.receive().await? {
                Inbound::Backend(Message::DataRow(body)) => rows.push(row(&body)?),
                Inbound::Backend(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse
                    | Message::NotificationResponse(_),
                ) => {}
                Inbound::Backend(Message::ReadyForQuery(_)) => return Ok(rows),
                Inbound::Backend(Message::ErrorResponse(body)) => {
                    let error = Channel::refused(&body);
                    self.until_ready().await;
                    return Err(error);
                }
                _ => return Err(self.channel.unexpected("the query's result")),
            }
        }
    }

    /// After an error the connection may go on, or end: the next command will tell.
    async fn until_ready(&mut self) {
        while let Ok(message) = self.channel.receive().await {
            if matches!(message, Inbound::Backend(Message::ReadyForQuery(_))) {
                return;
            }
        }
    }

    /// Runs a START_REPLICATION command and turns the connection into its stream.
    pub async fn start_replication(mut self, sql: &str) -> Result<ReplicationStream> {
        self.channel.queue(|out| frontend::query(sql, out))?;
        self.channel.send().await?;
        match self.channel.receive().await? {
            Inbound::CopyBoth => Ok(ReplicationStream::new(self.channel, self.pid)),
            Inbound::Backend(Message::ErrorResponse(body)) => Err(Channel::refused(&body)),
            _ => Err(self.channel.unexpected("the start of replication")),
        }
    }

    /// Ends the session in good order; best effort.
    pub async fn close(mut self) {
        let said = self.channel.queue(|out| {
            frontend::terminate(out);
            Ok(())
        });
        if said.is_ok() {
            let _ = self.channel.send().await;
        }
    }
}

fn row(body: &DataRowBody) -> Result<Row> {
    let buffer = body.buffer_bytes();
    let fields = body.ranges().map(|range| Ok(range.map(|range| buffer.slice(range))));
    fields.collect().map_err(|e| Error::failed(format!("a row of the result is damaged: {e}")))
}
