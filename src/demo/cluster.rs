//! A private PostgreSQL cluster: made in a temporary folder, gone without a trace when dropped.

mod account;
mod binaries;
mod folder;
mod server;
mod small_disk;
mod standby;
mod template;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::error::{Error, Result};
use account::Account;
pub use binaries::ServerBinaries;
use folder::ClusterFolder;
use server::Server;

/// How long a server may take to answer (crash recovery included) or to stop.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const PORT_ATTEMPTS: usize = 10;
const TAIL_LINES: usize = 30;

/// What every cluster runs with; settings given to [`Cluster::start`] come after and win.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "10"),
    ("shared_buffers", "256MB"),
    ("log_line_prefix", "%m [%p] %a "),
];

/// A PostgreSQL server of our own. Dropping it stops the server and removes its folder.
pub struct Cluster {
    // Dropped first: the folder can only be removed when the server is gone.
    server: Option<Server>,
    folder: ClusterFolder,
    binaries: ServerBinaries,
    account: Option<Account>,
    port: u16,
}

/// What became of a server that was launched.
enum Launch {
    Answers,
    PortTaken,
}

impl Cluster {
    /// Makes a cluster, starts it and waits until it answers. `settings` go into
    /// `postgresql.conf`, so `ALTER SYSTEM` still overrides them.
    pub async fn start(binaries: &ServerBinaries, settings: &[(&str, &str)]) -> Result<Cluster> {
        let account = Account::for_server()?;
        let conf: String = SETTINGS.iter().chain(settings).map(conf_line).collect();
        let folder = initialized_folder(binaries.clone(), account, conf).await?;
        let mut cluster =
            Cluster { server: None, folder, binaries: binaries.clone(), account, port: 0 };
        cluster.launch_on_a_free_port().await?;
        Ok(cluster)
    }

    /// A connection string (URI, over TCP) for the database `db`.
    pub fn dsn(&self, db: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{}", self.port, percent_encoded(db))
    }

    /// A connection string (URI, over the unix socket) for the database `db`.
    pub fn socket_dsn(&self, db: &str) -> String {
        let folder = percent_encoded(&self.folder.socket().to_string_lossy());
        format!("postgresql://postgres@{folder}:{}/{}", self.port, percent_encoded(db))
    }

    /// The TCP port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.server.as_ref().filter(|server| !server.has_exited()).map(Server::pid)
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.binaries.major()
    }

    /// The folder that holds everything of this cluster.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        tail(&self.folder.log_since(0))
    }

    /// Stops the server in an orderly way (SIGINT, "fast"): sessions are cut, nothing to recover.
    pub async fn stop_fast(&mut self) -> Result<()> {
        self.stop_by(libc::SIGINT).await
    }

    /// Stops the server as a crash would (SIGQUIT, "immediate"): the next start has to recover.
    pub async fn crash(&mut self) -> Result<()> {
        self.stop_by(libc::SIGQUIT).await
    }

    /// Starts the stopped server again, on the same port, and waits until it answers.
    pub async fn restart(&mut self) -> Result<()> {
        if self.pid().is_some() {
            self.stop_fast().await?;
        }
        match self.launch().await? {
            Launch::Answers => Ok(()),
            Launch::PortTaken => {
                Err(self.failed(format!("port {} was taken while the server was down", self.port)))
            }
        }
    }

    async fn launch_on_a_free_port(&mut self) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = free_port()?;
            if let Launch::Answers = self.launch().await? {
                return Ok(());
            }
        }
        Err(self.failed(format!("{PORT_ATTEMPTS} ports in a row were taken by others")))
    }

    async fn launch(&mut self) -> Result<Launch> {
        let log_start = self.folder.log_since(0).len();
        let mut command = self.binaries.command("postgres", self.account, self.folder.path());
        command
            .arg("-D")
            .arg(self.folder.data())
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k"])
            .arg(self.folder.socket())
            .stderr(self.folder.append_to_log()?);
        let server = Server::spawn(command)
            .map_err(|e| self.binaries.cannot_run("postgres", self.account, e))?;
        self.server = Some(server);
        self.wait_until_it_answers(log_start).await
    }

    async fn wait_until_it_answers(&mut self, log_start: usize) -> Result<Launch> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if self.pid().is_none() {
                self.server = None;
                let log = self.folder.log_since(log_start);
                if log.contains("could not create any TCP/IP sockets") {
                    return Ok(Launch::PortTaken);
                }
                return Err(self.failed("the private PostgreSQL server ended while starting"));
            }
            if self.answers().await {
                return Ok(Launch::Answers);
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!(
                    "the private PostgreSQL server did not answer within {DEADLINE:?}"
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether the server behind our port answers, and is ours: until it has bound the port,
    /// another one may be listening there.
    async fn answers(&self) -> bool {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        let Ok((client, connection)) = config.connect(NoTls).await else { return false };
        let asked = async {
            let row = client.query_one("SELECT current_setting('data_directory')", &[]).await;
            let folder = row.and_then(|row| row.try_get::<_, String>(0));
            folder.is_ok_and(|folder| Path::new(&folder) == self.folder.data())
        };
        tokio::select! {
            ours = asked => ours,
            _ = connection => false,
        }
    }

    async fn stop_by(&mut self, signal: i32) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        server.signal(signal);
        let deadline = Instant::now() + DEADLINE;
        while !server.has_exited() {
            if Instant::now() > deadline {
                return Err(
                    self.failed(format!("the private server did not stop within {DEADLINE:?}"))
                );
            }
            tokio::time::sleep(POLL).await;
        }
        self.server = None;
        Ok(())
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::failed(what).state(format!("The server's log ends with:\n{}", self.log_tail()))
    }
}

/// A temporary folder with a data folder in it, made by initdb.
async fn initialized_folder(
    binaries: ServerBinaries,
    account: Option<Account>,
    conf: String,
) -> Result<ClusterFolder> {
    let made = tokio::task::spawn_blocking(move || {
        let folder = ClusterFolder::create(account)?;
        template::initialize(&binaries, account, &folder)?;
        folder.append_to_conf(&conf)?;
        Ok(folder)
    });
    made.await.map_err(|e| Error::failed("making the private cluster was broken off").source(e))?
}

fn run_initdb(
    binaries: &ServerBinaries,
    account: Option<Account>,
    folder: &ClusterFolder,
) -> Result<()> {
    // Locale C exists everywhere and sorts the same everywhere.
    let output = binaries
        .command("initdb", account, folder.path())
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
        .arg("-D")
        .arg(folder.data())
        .output()
        .map_err(|e| binaries.cannot_run("initdb", account, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = tail(&String::from_utf8_lossy(&output.stderr));
    Err(Error::failed(format!("initdb failed with {}", output.status))
        .state(format!("It says:\n{said}")))
}

/// A port nobody listens on, as far as one can know. Below the range the kernel takes ports for
/// outgoing connections from: a client that keeps trying while the server is down could otherwise
/// be given the very port, connect to itself, and keep the server from coming back.
fn free_port() -> Result<u16> {
    (0..1000)
        .map(|_| rand::random_range(15_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Error::failed("no free TCP port was found on 127.0.0.1"))
}

fn conf_line((name, value): &(&str, &str)) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_survive_their_notation() {
        assert_eq!(percent_encoded("/tmp/a b-ü"), "%2Ftmp%2Fa%20b-%C3%BC");
        assert_eq!(conf_line(&("a", "it's")), "a = 'it''s'\n");
    }

    #[test]
    fn a_tail_is_the_end() {
        let text: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(tail(&text).starts_with("70\n") && tail(&text).ends_with("99"));
        assert_eq!(tail("one"), "one");
    }
}
