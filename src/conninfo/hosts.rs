//! The servers to try, from the parallel lists `host`, `hostaddr` and `port`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::surroundings::Surroundings;
use crate::error::{Error, Result};

const DEFAULT_PORT: u16 = 5432;

/// One server to try, with the password that belongs to it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where it listens.
    pub address: Address,
    /// Its port; with a socket directory, part of the socket's name.
    pub port: u16,
    /// The given password, else the one the password file has for this server.
    pub password: Option<Password>,
    /// The name a password file's line must have; for a password file only.
    pub(super) passfile_name: String,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP. `name` is what a certificate must be for; `addr`, if given, saves the name lookup.
    Tcp { name: String, addr: Option<IpAddr> },
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// A password. Shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub(super) fn new(password: impl Into<String>) -> Self {
        Password(password.into())
    }

    /// The password itself, for the authentication exchange only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Host {
    /// The socket's path; `None` for TCP.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Address::Tcp { .. } => None,
        }
    }

    /// Whether the server is reached over a Unix socket, where TLS does not exist.
    pub fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
            Address::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The servers in the order to try them; passwords come later.
pub(super) fn hosts(settings: &Settings, machine: &dyn Surroundings) -> Result<Vec<Host>> {
    let addrs = list(settings, "hostaddr");
    let mut names = list(settings, "host");
    let count = addrs.len().max(names.len()).max(1);
    if !addrs.is_empty() && !names.is_empty() && addrs.len() != names.len() {
        return Err(Error::usage(format!(
            "{} lists {} servers and {} lists {}",
            settings.named("host"),
            names.len(),
            settings.named("hostaddr"),
            addrs.len()
        )));
    }
    let ports = ports(settings, count)?;
    names.resize(count, "");
    (0..count)
        .zip(ports)
        .map(|(i, port)| {
            let addr = addrs.get(i).copied().unwrap_or_default();
            host(names[i], addr, port, settings, machine)
        })
        .collect()
}

fn host(
    name: &str,
    addr: &str,
    port: u16,
    settings: &Settings,
    machine: &dyn Surroundings,
) -> Result<Host> {
    check_name(name, settings)?;
    let address = match (name, addr) {
        ("", "") => Address::Unix(default_socket_directory(machine)),
        (name, "") if name.starts_with('/') => Address::Unix(PathBuf::from(name)),
        (name, "") => Address::Tcp { name: name.to_owned(), addr: None },
        (name, addr) => {
            let ip = addr.parse().map_err(|_| {
                Error::usage(format!("{} is no IP address: {addr:?}", settings.named("hostaddr")))
            })?;
            let name = if name.is_empty() || name.starts_with('/') { addr } else { name };
            Address::Tcp { name: name.to_owned(), addr: Some(ip) }
        }
    };
    let passfile_name = passfile_name(name, addr, &address, machine);
    Ok(Host { address, port, password: None, passfile_name })
}

/// An `@` is either an abstract socket or a piece of a password that was not percent-encoded; the
/// latter must not travel on as a host name into messages.
fn check_name(name: &str, settings: &Settings) -> Result<()> {
    if !name.contains('@') {
        return Ok(());
    }
    Err(Error::usage(format!("{} contains an \"@\"", settings.named("host")))
        .state("No host name has one, and abstract Unix sockets are not supported")
        .next("Write an \"@\" within the user or the password of a connection URI as %40"))
}

/// libpq looks up servers in the default socket directory as `localhost`.
fn passfile_name(name: &str, addr: &str, address: &Address, machine: &dyn Surroundings) -> String {
    match address {
        Address::Unix(directory) if *directory == default_socket_directory(machine) => "localhost",
        _ if name.is_empty() => addr,
        _ => name,
    }
    .to_owned()
}

/// Debian's default, else the one of PostgreSQL built from source.
fn default_socket_directory(machine: &dyn Surroundings) -> PathBuf {
    let debian = Path::new("/var/run/postgresql");
    let directory = if machine.status(debian).is_some() { debian } else { Path::new("/tmp") };
    directory.to_owned()
}

/// One port for all servers, or one for each; an empty one is the default.
fn ports(settings: &Settings, count: usize) -> Result<Vec<u16>> {
    let listed = list(settings, "port");
    let ports = listed.iter().map(|port| parse_port(port, settings)).collect::<Result<Vec<_>>>()?;
    match ports.as_slice() {
        [] => Ok(vec![DEFAULT_PORT; count]),
        [port] => Ok(vec![*port; count]),
        _ if ports.len() == count => Ok(ports),
        _ => Err(Error::usage(format!(
            "{} lists {} ports for {count} servers",
            settings.named("port"),
            ports.len()
        ))),
    }
}

/// The text of a wrong port stays unsaid: in a URI it may be a password with a stray slash.
fn parse_port(text: &str, settings: &Settings) -> Result<u16> {
    match text.trim().parse::<u16>() {
        _ if text.is_empty() => Ok(DEFAULT_PORT),
        Ok(port) if port > 0 => Ok(port),
        _ => {
            Err(Error::usage(format!("{} is not a number from 1 to 65535", settings.named("port")))
                .next(
                    "In a connection URI, percent-encode special characters of user and password",
                ))
        }
    }
}

fn list<'a>(settings: &'a Settings, keyword: &str) -> Vec<&'a str> {
    settings.given(keyword).map(|value| value.split(',').collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::surroundings::fake::Fake;
    use super::*;

    fn shown(dsn: &str) -> String {
        let hosts = hosts(&parse(dsn).unwrap(), &Fake::new()).unwrap();
        hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" ")
    }

    fn error(dsn: &str) -> String {
        hosts(&parse(dsn).unwrap(), &Fake::new()).err().unwrap().to_string()
    }

    #[test]
    fn hosts_and_ports_pair_up() {
        assert_eq!(shown(""), "/var/run/postgresql:5432");
        assert_eq!(shown("host=a,b port=1"), "a:1 b:1");
        assert_eq!(shown("host=a,b port=1,2"), "a:1 b:2");
        assert_eq!(shown("host=a,,/s port=1,,3"), "a:1 /var/run/postgresql:5432 /s:3");
        assert_eq!(shown("postgresql://[::1]:1,b"), "[::1]:1 b:5432");
        assert_eq!(shown("host=a hostaddr=10.0.0.1"), "a:5432");
        assert_eq!(shown("hostaddr=10.0.0.1,::1"), "10.0.0.1:5432 [::1]:5432");
        assert_eq!(shown("host=/s hostaddr=10.0.0.1"), "10.0.0.1:5432");
    }

    #[test]
    fn an_address_saves_the_lookup_and_leaves_the_name() {
        let hosts = hosts(&parse("host=a hostaddr=::1").unwrap(), &Fake::new()).unwrap();
        let addr = Some("::1".parse().unwrap());
        assert_eq!(hosts[0].address, Address::Tcp { name: "a".into(), addr });
        assert_eq!(hosts[0].passfile_name, "a");
    }

    #[test]
    fn lists_of_different_length_are_refused() {
        assert!(error("host=a,b port=1,2,3").contains("\"port\""));
        assert!(error("host=a port=1,2").contains("\"port\""));
        assert!(error("host=a,b hostaddr=::1").contains("\"hostaddr\""));
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for port in ["0", "65536", "-1", "x", "1.5"] {
            assert!(error(&format!("port={port}")).contains("\"port\""), "{port}");
        }
        assert!(error("hostaddr=nohost").contains("\"hostaddr\""));
        assert!(error("host=@abstract").contains("\"host\""));
    }

    #[test]
    fn an_unencoded_password_does_not_show_up_in_a_message() {
        for uri in ["postgresql://u:hun/ter2@h/d", "postgresql://u:p@hunter2@h/d"] {
            let text = error(uri);
            assert!(text.contains("percent-encode") || text.contains("%40"), "{text}");
            assert!(!text.contains("hun"), "{text}");
        }
    }

    #[test]
    fn the_default_socket_directory_is_localhost_in_a_password_file() {
        let name = |dsn: &str, machine: &Fake| {
            hosts(&parse(dsn).unwrap(), machine).unwrap()[0].passfile_name.clone()
        };
        assert_eq!(name("", &Fake::new()), "localhost");
        assert_eq!(name("host=/var/run/postgresql", &Fake::new()), "localhost");
        assert_eq!(name("host=/tmp", &Fake::new()), "/tmp");
        let bare = Fake::new().without("/var/run/postgresql");
        assert_eq!(name("", &bare), "localhost");
        assert_eq!(name("host=/tmp", &bare), "localhost");
        assert_eq!(name("hostaddr=10.0.0.1", &bare), "10.0.0.1");
    }

    #[test]
    fn a_socket_has_a_path() {
        let hosts = hosts(&parse("host=/s,a port=5433").unwrap(), &Fake::new()).unwrap();
        assert_eq!(hosts[0].socket_path(), Some(PathBuf::from("/s/.s.PGSQL.5433")));
        assert_eq!(hosts[1].socket_path(), None);
    }

    #[test]
    fn a_password_does_not_show_itself() {
        assert!(!format!("{:?}", Password::new("hunter2")).contains("hunter2"));
    }
}
