//! All that a database defines, as sorted lines without object ids: what must be the same after a
//! migration as before it. Our own schema and the retired tables are left out; what elsewhere means
//! a retired table is not, so it shows.

use tokio_postgres::Client;

use super::pg_dump;
use super::queries::{EXCLUDED, QUERIES};
use crate::scene::{Shop, exec};

/// A database's definition by the catalogs, and by pg_dump where there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Database {
    pub catalog: Vec<String>,
    pub dumped: Option<Vec<String>>,
}

impl Database {
    /// Both in one list of lines that say where they are from.
    pub fn lines(&self) -> Vec<String> {
        let dumped = self.dumped.iter().flatten().map(|entry| format!("pg_dump {entry}"));
        self.catalog.iter().cloned().chain(dumped).collect()
    }
}

/// The definition of the shop's database without the tables `retired`, which are named
/// `schema.table`, quoted where they must be.
pub async fn database(shop: &Shop, retired: &[&str]) -> Database {
    let (cluster, dsn) = (&shop.cluster, shop.dsn.clone());
    let names: Vec<String> = retired.iter().map(|s| (*s).to_owned()).collect();
    let dumped = pg_dump::program(cluster.major()).map(|program| {
        tokio::task::spawn_blocking(move || pg_dump::entries(&program, &dsn, &names))
    });
    let catalog = catalog(&shop.session().await, retired).await;
    let dumped = match dumped {
        Some(task) => Some(task.await.unwrap()),
        None => None,
    };
    Database { catalog, dumped }
}

/// The definition by the catalogs alone.
async fn catalog(session: &Client, retired: &[&str]) -> Vec<String> {
    // Names are then printed with their schemas.
    exec(session, "SET search_path = pg_catalog; SET extra_float_digits = 1").await;
    let mut lines = Vec::new();
    for (kind, query) in QUERIES {
        let sql = format!("{EXCLUDED} {query}");
        let rows = session.query(&sql, &[&retired]).await;
        let rows = rows.unwrap_or_else(|e| panic!("{kind}: {e:?}: {query}"));
        lines.extend(rows.iter().map(|row| format!("{kind} {}", row.get::<_, String>(0))));
    }
    lines.sort();
    lines
}

/// Where the sequences stand.
pub async fn positions(session: &Client, retired: &[&str]) -> Vec<String> {
    let names = format!(
        "{EXCLUDED} SELECT c.oid::regclass::text FROM pg_class c \
         WHERE c.relkind = 'S' AND c.oid IN (SELECT oid FROM kept) ORDER BY 1"
    );
    let names = session.query(&names, &[&retired]).await.unwrap();
    let mut found = Vec::new();
    for name in names.iter().map(|row| row.get::<_, String>(0)) {
        let sql = format!("SELECT '{0} ' || last_value || is_called FROM {0}", name);
        found.push(session.query_one(&sql, &[]).await.unwrap().get(0));
    }
    found
}
