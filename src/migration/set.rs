//! Changes limits of a migration, from any host: the run reads them from the state.

use serde_json::Value;

use super::{resume, store};
use crate::error::Result;
use crate::pg::Connector;

/// Sets flags of the unfinished migration of `table`, and notes who did.
pub async fn set(connector: &Connector, table: &str, flags: &Value, typed: &str) -> Result<()> {
    let session = connector.session("set").await?;
    let found = resume::find(&session, table).await?;
    store::ensure(&session).await?;
    session.batch("BEGIN").await?;
    store::set_options(&session, found.id, flags).await?;
    store::event(&session, found.id, "set", typed).await?;
    session.batch("COMMIT").await
}
