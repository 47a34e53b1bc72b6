//! The talk from the first message to "ready": startup, authentication, the server's settings.
//! After PostgreSQL's documentation, "Message Flow", Start-up, and "SASL Authentication".

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::channel::{Channel, Inbound};
use super::endpoint::Endpoint;
use crate::error::{Error, Result};

/// Starts a replication session and returns the walsender's process id.
pub(super) async fn start(
    channel: &mut Channel,
    endpoint: &Endpoint,
    parameters: &[(&str, &str)],
) -> Result<i32> {
    let ours = [
        ("user", endpoint.user.as_str()),
        ("database", endpoint.dbname.as_str()),
        ("replication", "database"),
    ];
    let all = ours.into_iter().chain(parameters.iter().copied());
    channel.queue(|out| frontend::startup_message(all, out))?;
    channel.send().await?;
    authenticate(channel, endpoint).await?;
    until_ready(channel).await
}

async fn authenticate(channel: &mut Channel, endpoint: &Endpoint) -> Result<()> {
    match reply(channel, "a request to authenticate").await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            send_password(channel, password(endpoint)?.as_bytes()).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            let password = password(endpoint)?.as_bytes();
            let hash = md5_hash(endpoint.user.as_bytes(), password, body.salt());
            send_password(channel, hash.as_bytes()).await?;
        }
        Message::AuthenticationSasl(body) => scram(channel, endpoint, &body).await?,
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => return Err(unsupported("GSSAPI or SSPI")),
        _ => return Err(channel.unexpected("a request to authenticate")),
    }
    match reply(channel, "the end of authentication").await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(channel.unexpected("the end of authentication")),
    }
}

async fn send_password(channel: &mut Channel, password: &[u8]) -> Result<()> {
    channel.queue(|out| frontend::password_message(password, out))?;
    channel.send().await
}

/// Without channel binding, also where the server offers it: the header `n,,` says that we do not
/// know it, so that nobody takes it for a downgrade. The server proves too that it knows the
/// password; one that calls us welcome before it has is not believed.
async fn scram(
    channel: &mut Channel,
    endpoint: &Endpoint,
    offered: &AuthenticationSaslBody,
) -> Result<()> {
    if !offered.mechanisms().any(|name| Ok(name == SCRAM_SHA_256)).unwrap_or(false) {
        return Err(unsupported("a SASL mechanism other than SCRAM-SHA-256"));
    }
    let password = password(endpoint)?.as_bytes();
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    channel.queue(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
    channel.send().await?;

    match reply(channel, "the SCRAM challenge").await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(failed)?,
        _ => return Err(channel.unexpected("the SCRAM challenge")),
    }
    channel.queue(|out| frontend::sasl_response(scram.message(), out))?;
    channel.send().await?;

    match reply(channel, "the server's SCRAM proof").await? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(failed),
        _ => Err(channel.unexpected("the server's SCRAM proof")),
    }
}

async fn until_ready(channel: &mut Channel) -> Result<i32> {
    let mut pid = 0;
    loop {
        match reply(channel, "the server's readiness").await? {
            Message::BackendKeyData(body) => pid = body.process_id(),
            Message::ReadyForQuery(_) => return Ok(pid),
            _ => return Err(channel.unexpected("the server's readiness")),
        }
    }
}

/// The next message that is not an error.
async fn reply(channel: &mut Channel, expected: &str) -> Result<Message> {
    match channel.receive().await? {
        Inbound::Backend(Message::ErrorResponse(body)) => Err(Channel::refused(&body)),
        Inbound::Backend(message) => Ok(message),
        Inbound::CopyBoth => Err(channel.unexpected(expected)),
    }
}

fn password(endpoint: &Endpoint) -> Result<&str> {
    endpoint.password.as_deref().ok_or_else(|| {
        Error::failed(format!("the server wants a password for {:?}", endpoint.user))
            .next("Give one in PGPASSWORD, a password file or the connection string")
    })
}

fn unsupported(method: &str) -> Error {
    Error::failed(format!("the server wants to authenticate by {method}, which is not supported"))
        .next("Let pg_hba.conf ask this role for scram-sha-256, md5, password or trust")
}

fn failed(e: std::io::Error) -> Error {
    Error::failed(format!("SCRAM authentication failed: {e}"))
}
