//! Databases made alike: copies of one that was set up once.

use crate::definition::Database;
use crate::harness;
use crate::scene::{Shop, exec};

/// Goes on in the new database `name`, a copy of `template`.
pub async fn copy(shop: &mut Shop, template: &str, name: &str) {
    // Nobody may be in the template meanwhile.
    shop.dsn = shop.cluster.dsn("postgres");
    shop.client = shop.session().await;
    let alone = format!(
        "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = '{template}' AND backend_type <> 'autovacuum worker')"
    );
    harness::wait_for_sql(&shop.client, "the template is left alone", &alone).await;
    exec(&shop.client, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    shop.dsn = shop.cluster.dsn(name);
    shop.client = shop.session().await;
}

/// The lines without those about what a held run brings along.
pub fn lines(of: &Database) -> Vec<String> {
    let held = ["public.elsewhere", "public.gate"];
    of.lines().into_iter().filter(|line| !held.iter().any(|name| line.contains(name))).collect()
}
