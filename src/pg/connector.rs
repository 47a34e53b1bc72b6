//! Opens connections of one tool process, all of them to the same server.

use std::net::SocketAddr;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session::{Session, application_name, settle, start_options};
use super::unanswered::Unanswered;
use crate::conninfo::{Address, ConnInfo, Host, UseTls};
use crate::error::{Error, Result};

/// Opens sessions of one tool process to one database.
///
/// A connection string may stand for several servers: by a list of hosts, by a name with several
/// addresses. The one that the first session reached serves all later connections, the replication
/// connection too: slot and rows of one run must be of one server, and which of the listed servers
/// answers, or takes writes, may change from one connection to the next.
#[derive(Clone)]
pub struct Connector {
    info: Arc<ConnInfo>,
    reached: Arc<OnceCell<Host>>,
    unanswered: Unanswered,
    making: Arc<Mutex<Vec<(String, String)>>>,
}

impl Connector {
    /// Opens nothing yet.
    pub fn new(info: ConnInfo) -> Self {
        Connector {
            info: Arc::new(info),
            reached: Arc::default(),
            unanswered: Unanswered::default(),
            making: Arc::default(),
        }
    }

    /// Gives `session`, and every one that is opened from now on, these settings, by which values are made
    /// ([`Session::making`]): whatever role, database and server say by then, rows are made alike.
    pub async fn keep_making(
        &self,
        session: &Session,
        settings: &[(String, String)],
    ) -> Result<()> {
        *self.making.lock().unwrap_or_else(PoisonError::into_inner) = settings.to_vec();
        session.make_by(settings).await
    }

    /// Statements of its sessions that are not answered yet.
    pub fn unanswered(&self) -> &Unanswered {
        &self.unanswered
    }

    /// What was asked for.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Where the next connection may go: to the server that was reached, or until one was, to any.
    pub fn hosts(&self) -> &[Host] {
        self.reached.get().map_or(&self.info.hosts, slice::from_ref)
    }

    /// Opens a session; `role` says what it does and becomes part of its application name.
    pub async fn session(&self, role: &str) -> Result<Session> {
        let mut first = None;
        let reach = async || {
            let (session, host) = self.first_session(role).await?;
            first = Some(session);
            Ok::<_, Error>(host)
        };
        let host = self.reached.get_or_try_init(reach).await?;
        match first {
            Some(session) => Ok(session),
            None => self.open(host, role).await,
        }
    }

    /// A session with the first server that gives one, and the single address it was reached by.
    async fn first_session(&self, role: &str) -> Result<(Session, Host)> {
        let mut last = None;
        for host in &self.info.hosts {
            let hosts = match single_addresses(host).await {
                Ok(hosts) => hosts,
                Err(e) => {
                    last = Some(self.refused(e));
                    continue;
                }
            };
            for host in hosts {
                match self.open(&host, role).await {
                    Ok(session) => return Ok((session, host)),
                    Err(e) => last = Some(e),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::usage("the connection string names no host")))
    }

    /// As with libpq, the limit is for all of it: a network that loses packets may do so behind the TCP
    /// connection.
    async fn open(&self, host: &Host, role: &str) -> Result<Session> {
        let opened = self.open_in_any_time(host, role);
        let Some(limit) = self.info.connect_timeout else { return opened.await };
        timeout(limit, opened).await.unwrap_or_else(|_| {
            Err(self.refused(Error::lost(format!("no answer within {limit:?}"))))
        })
    }

    async fn open_in_any_time(&self, host: &Host, role: &str) -> Result<Session> {
        let mut last = None;
        for &tls in self.info.attempts(host) {
            match self.client(host, tls, role).await {
                Ok(client) => {
                    let session = settle(client, role, &self.unanswered).await?;
                    let making = self.making.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    session.make_by(&making).await?;
                    return Ok(session);
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::usage("the connection string allows no connection")))
    }

    async fn client(&self, host: &Host, tls: UseTls, role: &str) -> Result<Client> {
        let mut config = self.info.pg_config(host, tls);
        config.application_name(application_name(role));
        config.options(start_options(self.info.options.as_deref()));
        let refused = |e: tokio_postgres::Error| self.refused(e.into());
        match self.info.tls(host)? {
            Some(config_tls) if tls != UseTls::Never => {
                let tls = MakeRustlsConnect::new(Arc::unwrap_or_clone(config_tls));
                let (client, connection) = config.connect(tls).await.map_err(refused)?;
                tokio::spawn(drive(connection));
                Ok(client)
            }
            _ => {
                let (client, connection) =
                    config.connect(tokio_postgres::NoTls).await.map_err(refused)?;
                tokio::spawn(drive(connection));
                Ok(client)
            }
        }
    }

    fn refused(&self, e: Error) -> Error {
        e.context(format!("cannot connect to {}", self.info.display()))
            .next("Check the connection string (-d) and that the server accepts connections")
    }
}

/// The host once for each address that its name stands for; it keeps the name, which a certificate
/// is for.
async fn single_addresses(host: &Host) -> Result<Vec<Host>> {
    let Address::Tcp { name, addr: None } = &host.address else { return Ok(vec![host.clone()]) };
    let found = tokio::net::lookup_host((name.as_str(), host.port)).await.map_err(|e| {
        Error::failed(format!("the name {name:?} cannot be looked up: {e}")).source(e)
    })?;
    let single = |at: SocketAddr| match at {
        // A link-local address is none without its scope, which only the name can carry.
        SocketAddr::V6(at) if at.scope_id() != 0 => host.clone(),
        _ => {
            let address = Address::Tcp { name: name.clone(), addr: Some(at.ip()) };
            let mut host = host.clone();
            host.address = address;
            host
        }
    };
    Ok(found.map(single).collect())
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // The client sees a closed connection at its next call; here it only needs a trace.
    if let Err(e) = connection.await {
        tracing::debug!("a session ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn addresses(dsn: &str) -> Vec<Address> {
        let info = ConnInfo::resolve(Some(dsn)).unwrap();
        let found = single_addresses(&info.hosts[0]).await.unwrap();
        found.into_iter().map(|h| h.address).collect()
    }

    #[tokio::test]
    async fn a_host_is_taken_apart_into_addresses_and_keeps_its_name() {
        let tcp = |name: &str, addr: &str| Address::Tcp {
            name: name.into(),
            addr: Some(addr.parse().unwrap()),
        };
        assert_eq!(addresses("host=127.0.0.2").await, [tcp("127.0.0.2", "127.0.0.2")]);
        assert_eq!(addresses("host=no.such hostaddr=::1").await, [tcp("no.such", "::1")]);
        assert_eq!(addresses("host=/s").await, [Address::Unix("/s".into())]);
        let local = addresses("host=localhost").await;
        let named = |a: &Address| matches!(a, Address::Tcp { name, addr: Some(ip) } if name == "localhost" && ip.is_loopback());
        assert!(!local.is_empty() && local.iter().all(named), "{local:?}");
    }

    #[tokio::test]
    async fn before_a_server_was_reached_any_may_be_asked() {
        let info = ConnInfo::resolve(Some("host=127.0.0.1,127.0.0.1 port=1,2")).unwrap();
        let connector = Connector::new(info);
        assert!(connector.session("test").await.is_err());
        let ports = |c: &Connector| c.hosts().iter().map(|h| h.port).collect::<Vec<_>>();
        assert_eq!(ports(&connector), [1, 2]);
        let reached = connector.info().hosts[1].clone();
        connector.reached.set(reached).unwrap();
        assert_eq!(ports(&connector.clone()), [2], "clones go to the same server");
    }
}
