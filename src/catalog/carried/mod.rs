//! What hangs on a table and follows it through the swap.
//!
//! One file a kind of object. Each asks PostgreSQL for the statements themselves: what takes the
//! object off the table before the names are exchanged, and what puts it, word for word, on the
//! table that has the name afterwards. Definitions name the table by its qualified name (the pinned
//! search path leaves nothing unqualified), so they need no change to mean the new one.
//!
//! What no file here knows is refused by name ([`super::attachments`]).

mod policies;
mod rules;
mod triggers;

use serde::Deserialize;
use serde_json::Value;

use super::read::parse;
use crate::error::Result;
use crate::pg::Session;

/// One thing that follows.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Carried {
    /// The kind of object, as a DBA calls it: `trigger`, `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Who owns it, and runs the statements; None where they need the rights of several owners.
    pub role: Option<String>,
    /// Take it off the old table, which still has its name.
    pub unbind: Vec<String>,
    /// Put it on the table that has the name by then.
    pub bind: Vec<String>,
}

/// All that hangs on the table `oid` and follows it, in the order in which it is put on again.
pub async fn carried(session: &Session, oid: u32) -> Result<Vec<Carried>> {
    let sql = format!(
        "WITH t AS (SELECT c.*, c.oid AS toid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS tname, \
           r.rolname AS owner FROM pg_catalog.pg_class c \
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
           JOIN pg_catalog.pg_roles r ON r.oid = c.relowner WHERE c.oid = $1) \
         SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY step, name), '[]') FROM ({}) x",
        kinds()
            .iter()
            .enumerate()
            .map(|(step, kind)| format!("SELECT {step} AS step, k.* FROM ({kind}) k"))
            .collect::<Vec<_>>()
            .join(" UNION ALL ")
    );
    parse(session.one(&sql, &[&oid]).await?.get::<_, Value>(0))
}

/// In the order in which things are put on. Each query reads `t`, the one row of the table with
/// `toid`, its qualified name `tname` and `owner`, and gives the fields of [`Carried`].
fn kinds() -> [String; 4] {
    [triggers::sql(), rules::sql(), policies::ENABLED.to_owned(), policies::sql()]
}

/// The statement that gives a trigger or rule its firing state, NULL where that is the usual one.
fn state(kind: &str, name: &str, state: &str) -> String {
    format!(
        "CASE WHEN {state} <> 'O' THEN pg_catalog.format('ALTER TABLE %s %s {kind} %I', t.tname, \
         CASE {state} WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' END, {name}) END"
    )
}

/// The statement that gives an object of the table its comment, NULL where it has none.
fn comment(kind: &str, name: &str, catalog: &str, oid: &str) -> String {
    format!(
        "(SELECT pg_catalog.format('COMMENT ON {kind} %I ON %s IS %L', {name}, t.tname, d.description) \
         FROM pg_catalog.pg_description d \
         WHERE d.classoid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND d.objoid = {oid})"
    )
}
