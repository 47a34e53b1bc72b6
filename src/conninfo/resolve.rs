//! Everything needed to connect, after all layers and defaults.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};
use tokio_rustls::rustls::ClientConfig;

use super::hosts::{Address, Host, Password, hosts};
use super::layers;
use super::passfile::{self, Wanted};
use super::refuse;
use super::settings::Settings;
use super::surroundings::{Machine, Surroundings};
use super::tls::{self, SslSettings, UseTls};
use crate::error::{Error, Result};

/// How to connect, complete.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The servers in the order to try them; never empty.
    pub hosts: Vec<Host>,
    /// The database.
    pub dbname: String,
    /// The role.
    pub user: String,
    /// Whether and how TLS is used over TCP.
    pub ssl: SslSettings,
    /// The limit for a connection to one server, until it can be used; `None` waits.
    pub connect_timeout: Option<Duration>,
    /// Server options for the startup message (`-c name=value …`).
    pub options: Option<String>,
    /// What the operator wants sessions to be called.
    pub application_name: Option<String>,
    /// Whether a server without writable sessions is to be passed over.
    pub writable_only: bool,
    /// Whether SCRAM may bind to the TLS channel.
    pub channel_binding: bool,
}

impl ConnInfo {
    /// Resolves a connection string (`None`: environment only) on this machine.
    pub fn resolve(dsn: Option<&str>) -> Result<ConnInfo> {
        Self::resolve_with(dsn, &Machine)
    }

    pub(super) fn resolve_with(dsn: Option<&str>, machine: &dyn Surroundings) -> Result<ConnInfo> {
        let settings = layers::layered(dsn, machine)?;
        refuse::unhonoured(&settings)?;
        let user = user(&settings, machine)?;
        let dbname = settings.given("dbname").unwrap_or(&user).to_owned();
        let mut hosts = hosts(&settings, machine)?;
        give_passwords(&mut hosts, &dbname, &user, &settings, machine);
        let application = settings.given("application_name");
        Ok(ConnInfo {
            hosts,
            dbname,
            user,
            ssl: SslSettings::from_settings(&settings, machine)?,
            connect_timeout: connect_timeout(&settings)?,
            options: settings.given("options").map(str::to_owned),
            application_name: application
                .or(settings.given("fallback_application_name"))
                .map(str::to_owned),
            writable_only: writable_only(&settings)?,
            channel_binding: settings.given("channel_binding") != Some("disable"),
        })
    }

    /// Servers, database and role for messages; no password.
    pub fn display(&self) -> String {
        let hosts = self.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ");
        format!("database {:?} as {:?} on {hosts}", self.dbname, self.user)
    }

    /// How to try one server, in order. The next attempt is for when this one reached the server
    /// and failed in the TLS handshake or was turned away at startup.
    pub fn attempts(&self, host: &Host) -> &'static [UseTls] {
        if host.is_unix() { &[UseTls::Never] } else { self.ssl.mode.attempts() }
    }

    /// The TLS configuration for one server, `None` where TLS is not used.
    pub fn tls(&self, host: &Host) -> Result<Option<Arc<ClientConfig>>> {
        if host.is_unix() { Ok(None) } else { tls::client_config(&self.ssl) }
    }

    /// The same for an SQL session: one server, one of its [`attempts`](Self::attempts).
    pub fn pg_config(&self, host: &Host, tls: UseTls) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        match &host.address {
            Address::Unix(directory) => {
                config.host_path(directory);
            }
            Address::Tcp { name, addr } => {
                config.host(name);
                addr.map(|addr| config.hostaddr(addr));
            }
        }
        config.port(host.port).user(&self.user).dbname(&self.dbname);
        // The server answers "no TLS" on a Unix socket; asking would cost a round trip.
        config.ssl_mode(if host.is_unix() { UseTls::Never } else { tls }.ssl_mode());
        if let Some(password) = &host.password {
            config.password(password.reveal());
        }
        if let Some(timeout) = self.connect_timeout {
            config.connect_timeout(timeout);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        if let Some(name) = &self.application_name {
            config.application_name(name);
        }
        if self.writable_only {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if !self.channel_binding {
            config.channel_binding(ChannelBinding::Disable);
        }
        config
    }
}

fn user(settings: &Settings, machine: &dyn Surroundings) -> Result<String> {
    let user = settings.given("user").map(str::to_owned).or_else(|| machine.os_user());
    user.ok_or_else(|| {
        Error::usage("connection parameter \"user\" is missing and the account has no name")
            .next("Give the user in the connection string or in PGUSER")
    })
}

/// The given password for every server, else to each its own from the password file.
fn give_passwords(
    hosts: &mut [Host],
    dbname: &str,
    user: &str,
    settings: &Settings,
    machine: &dyn Surroundings,
) {
    if let Some(password) = settings.given("password") {
        hosts.iter_mut().for_each(|host| host.password = Some(Password::new(password)));
        return;
    }
    let Some(file) = passfile::load(settings, machine) else { return };
    for host in hosts {
        let wanted = Wanted { host: &host.passfile_name, port: host.port, dbname, user };
        host.password = passfile::find(&file, &wanted).map(Password::new);
    }
}

/// What libpq would wait for without end: a run notices that a server is not reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Zero and less wait without limit.
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>> {
    let Some(text) = settings.given("connect_timeout") else { return Ok(Some(CONNECT_TIMEOUT)) };
    match text.trim().parse::<i32>() {
        Ok(seconds) => Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs)),
        Err(_) => Err(settings.bad_value("connect_timeout", "a whole number of seconds")),
    }
}

/// Every run writes, so what asks for a standby only could never work.
fn writable_only(settings: &Settings) -> Result<bool> {
    match settings.given("target_session_attrs") {
        None | Some("any" | "prefer-standby") => Ok(false),
        Some("read-write" | "primary") => Ok(true),
        Some(_) => {
            Err(settings
                .bad_value("target_session_attrs", "any, read-write, primary, prefer-standby"))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::super::surroundings::fake::Fake;
    use super::*;

    fn resolve(dsn: &str) -> ConnInfo {
        ConnInfo::resolve_with(Some(dsn), &Fake::new()).unwrap()
    }

    fn error(dsn: &str) -> String {
        ConnInfo::resolve_with(Some(dsn), &Fake::new()).err().unwrap().to_string()
    }

    #[test]
    fn nothing_given_is_the_local_server_and_the_account() {
        let info = ConnInfo::resolve_with(None, &Fake::new()).unwrap();
        assert_eq!(info.display(), "database \"os\" as \"os\" on /var/run/postgresql:5432");
        assert_eq!(info.hosts[0].password, None);
        assert_eq!(info.connect_timeout, Some(CONNECT_TIMEOUT));
        assert_eq!(resolve("user=u").dbname, "u");
        assert_eq!(resolve("user=u dbname=''").dbname, "u");
        let bare = Fake::new().without("/etc/passwd");
        assert!(ConnInfo::resolve_with(None, &bare).err().unwrap().to_string().contains("user"));
    }

    #[test]
    fn a_given_password_serves_every_host() {
        let machine = Fake::new().file("/home/os/.pgpass", 0o600, "*:*:*:*:file");
        let info = ConnInfo::resolve_with(Some("host=a,b password=given"), &machine).unwrap();
        assert!(info.hosts.iter().all(|h| h.password == Some(Password::new("given"))));
    }

    #[test]
    fn each_host_has_its_own_line_in_the_password_file() {
        let lines = "a:1:d:u:pa\nb:2:d:u:pb\nlocalhost:5432:d:u:ps\n";
        let machine = Fake::new().file("/p", 0o600, lines);
        let dsn = "host=a,b,,c port=1,2,,1 dbname=d user=u passfile=/p";
        let info = ConnInfo::resolve_with(Some(dsn), &machine).unwrap();
        let passwords: Vec<_> =
            info.hosts.iter().map(|h| h.password.as_ref().map(Password::reveal)).collect();
        assert_eq!(passwords, [Some("pa"), Some("pb"), Some("ps"), None]);
    }

    #[test]
    fn nothing_shows_the_password() {
        let info = resolve("postgresql://u:hunter2@a,b/d");
        assert_eq!(info.display(), "database \"d\" as \"u\" on a:5432, b:5432");
        assert!(!format!("{info:?}").contains("hunter2"));
    }

    #[test]
    fn an_sql_session_gets_everything() {
        let dsn = "host=db hostaddr=10.0.0.1 port=1 user=u password=p dbname=d connect_timeout=7 \
                   options='-c a=b' application_name=x target_session_attrs=read-write \
                   channel_binding=disable sslmode=require";
        let info = resolve(dsn);
        let config = info.pg_config(&info.hosts[0], info.attempts(&info.hosts[0])[0]);
        assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Tcp("db".into())]);
        assert_eq!(config.get_hostaddrs(), ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(config.get_ports(), [1]);
        assert_eq!(config.get_user(), Some("u"));
        assert_eq!(config.get_password(), Some(&b"p"[..]));
        assert_eq!(config.get_dbname(), Some("d"));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        assert_eq!(config.get_options(), Some("-c a=b"));
        assert_eq!(config.get_application_name(), Some("x"));
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(config.get_channel_binding(), ChannelBinding::Disable);
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn a_unix_socket_never_uses_tls() {
        let info = resolve("host=/s sslmode=verify-full sslrootcert=/missing");
        let host = &info.hosts[0];
        assert_eq!(info.attempts(host), [UseTls::Never]);
        assert!(info.tls(host).unwrap().is_none());
        assert_eq!(info.pg_config(host, UseTls::Always).get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn timeouts_and_session_attributes() {
        assert_eq!(resolve("connect_timeout=0").connect_timeout, None);
        assert_eq!(resolve("connect_timeout=-1").connect_timeout, None);
        assert!(error("connect_timeout=x").contains("\"connect_timeout\""));
        assert!(resolve("target_session_attrs=primary").writable_only);
        assert!(!resolve("target_session_attrs=any").writable_only);
        assert!(error("target_session_attrs=standby").contains("\"target_session_attrs\""));
    }

    #[test]
    fn the_fallback_name_is_for_when_no_other_is_given() {
        let name = |dsn: &str| resolve(dsn).application_name;
        assert_eq!(name("fallback_application_name=f").as_deref(), Some("f"));
        assert_eq!(name("fallback_application_name=f application_name=a").as_deref(), Some("a"));
    }
}
