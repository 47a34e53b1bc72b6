//! Databases with everything that can hang on a table, as scripts.

use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;

use crate::scene::Shop;

/// The table of [`zoo_more`].
pub const MORE: &str = r#""Größe"."order""#;

/// The table `zoo`, and what hangs on it.
pub async fn zoo(shop: &Shop) {
    load(&shop.client, include_str!("zoo.sql")).await;
}

/// What [`zoo`] leaves out, on [`MORE`].
pub async fn zoo_more(shop: &Shop) {
    tablespaces(&shop.client).await;
    load(&shop.client, include_str!("zoo-more.sql")).await;
}

/// The table `zoo18`, with what version 18 brought.
pub async fn zoo_18(shop: &Shop) {
    load(&shop.client, include_str!("zoo-18.sql")).await;
}

/// The tablespaces `fast` and `slow`.
pub async fn tablespaces(client: &Client) {
    for sql in [
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE fast LOCATION ''",
        "CREATE TABLESPACE slow LOCATION ''",
    ] {
        load(client, sql).await;
    }
}

/// Runs a script; shows where it fails.
pub async fn load(client: &Client, script: &str) {
    let Err(error) = client.batch_execute(script).await else { return };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error}"));
    let at = match error.position() {
        Some(ErrorPosition::Original(at)) => {
            script.chars().skip(*at as usize - 1).take(80).collect()
        }
        _ => error.where_().unwrap_or_default().to_owned(),
    };
    panic!("{error}\nat {at}");
}
