//! Opens a replication connection to where the SQL sessions go.

use super::{Address, Endpoint, ReplicationConn};
use crate::conninfo::{self, ConnInfo, Host, UseTls};
use crate::error::{Error, Result};
use crate::pg::Connector;
use crate::pg::session::{application_name, client_encoding, start_options};

impl ReplicationConn {
    /// Connects with the walsender's settings pinned like a session's; `role` says what it is for.
    pub async fn open(connector: &Connector, role: &str, server_encoding: &str) -> Result<Self> {
        let info = connector.info();
        let name = application_name(role);
        let options = start_options(None);
        let parameters = [
            ("application_name", name.as_str()),
            ("client_encoding", client_encoding(server_encoding)),
            ("options", options.as_str()),
        ];
        let mut last = None;
        for host in connector.hosts() {
            for &tls in info.attempts(host) {
                match ReplicationConn::connect(&endpoint(info, host, tls)?, &parameters).await {
                    Ok(connection) => return Ok(connection),
                    Err(e) => last = Some(e),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::usage("the connection string names no host")))
    }
}

fn endpoint(info: &ConnInfo, host: &Host, tls: UseTls) -> Result<Endpoint> {
    let address = match (&host.address, host.socket_path()) {
        (_, Some(path)) => Address::Unix { path },
        (conninfo::Address::Tcp { name, addr }, None) => {
            Address::Tcp { host: name.clone(), addr: *addr, port: host.port }
        }
        (conninfo::Address::Unix(directory), None) => Address::Unix { path: directory.clone() },
    };
    Ok(Endpoint {
        address,
        user: info.user.clone(),
        password: host.password.as_ref().map(|p| p.reveal().to_owned()),
        dbname: info.dbname.clone(),
        tls: if tls == UseTls::Never { None } else { info.tls(host)? },
        tls_required: tls == UseTls::Always,
        connect_timeout: info.connect_timeout,
    })
}
