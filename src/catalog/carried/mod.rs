//! What hangs on a table and follows it through the swap.
//!
//! One file a kind of object. Each asks PostgreSQL for the statements themselves: what takes the
//! object off the table before the names are exchanged, and what puts it, word for word, on the
//! table that has the name afterwards. Definitions name the table by its qualified name (the pinned
//! search path leaves nothing unqualified), so they need no change to mean the new one.
//!
//! What is the table's own (triggers) is taken off and put on. What is somebody else's and only refers
//! to the table (views, functions) stays the object it is, with its owner, privileges, comments and
//! whatever depends on it: its definition is replaced by itself, and means the new table then.
//!
//! What no file here knows is refused by name ([`super::attachments`]).

mod defaults;
mod functions;
mod policies;
mod publications;
mod rules;
mod triggers;
mod views;

use serde::Deserialize;
use serde_json::Value;

use super::model::Partner;
use super::passing;
use super::read::{definitions, parse};
use crate::error::Result;
use crate::pg::Session;

/// Stands in a trial's text for the schema that it is tried in.
pub const TRIAL: &str = "pgwraith_trial";

/// One thing that follows.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Carried {
    /// The kind of object, as a DBA calls it: `trigger`, `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    pub owner: String,
    /// The catalog it is in, and its object id there; 0 where it is no object of its own.
    pub class: String,
    pub oid: u32,
    /// Who runs the statements: its owner, or None where they need the rights of several owners.
    pub role: Option<String>,
    /// Take it off the old table, which still has its name.
    pub unbind: Vec<String>,
    /// Put it on the table that has the name by then.
    pub bind: Vec<String>,
    /// The relation that it is part of, where that is not the table itself.
    pub relation: Option<Partner>,
    /// Where it is made anew, where making it takes a right on the schema.
    pub schema: Option<String>,
    /// Columns of the table that it uses, where it is known.
    pub uses: Vec<i16>,
    /// Identity columns of the table whose sequences it calls.
    pub calls: Vec<i16>,
    /// What tries `bind` without touching the object; empty where `bind` itself can be tried.
    pub trial: Vec<String>,
}

/// All that hangs on the table `oid` and follows it, in the order in which it is put on again.
pub async fn carried(session: &Session, oid: u32) -> Result<Vec<Carried>> {
    let kinds = kinds();
    let kinds = kinds.iter().enumerate().map(|(step, kind)| {
        format!(
            "SELECT {step} AS step, pg_catalog.jsonb_build_object('uses', '{{}}'::pg_catalog.int2[], \
             'calls', '{{}}'::pg_catalog.int2[], 'trial', '{{}}'::pg_catalog.text[], 'relation', NULL, 'schema', NULL, 'class', '', 'oid', 0) \
             || pg_catalog.jsonb_build_object('owner', pg_catalog.to_jsonb(k)->'role') \
             || pg_catalog.to_jsonb(k) AS thing \
             FROM ({kind}) k"
        )
    });
    let kinds = kinds.collect::<Vec<_>>().join(" UNION ALL ");
    let sql = format!(
        "{} SELECT COALESCE(pg_catalog.jsonb_agg(thing ORDER BY step, thing->>'name'), '[]') \
         FROM ({kinds}) x",
        REFERRING.replace("PASSING", passing::OBJECTS)
    );
    parse(definitions(session, &sql, oid).await?.get::<_, Value>(0))
}

/// `t`, the one row of the table with `toid`, its qualified name `tname` and `owner`; and `d`, what
/// refers to it or to the sequence of one of its identity columns, which the shadow has its own of, and
/// does not pass by itself.
const REFERRING: &str = "
WITH t AS (SELECT c.*, c.oid AS toid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS tname,
    r.rolname::pg_catalog.text AS owner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner WHERE c.oid = $1),
own AS (SELECT toid AS oid, 0 AS attnum FROM t UNION ALL
  SELECT i.objid, i.refobjsubid FROM pg_catalog.pg_depend i, t WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND i.refobjid = toid AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.deptype = 'i'
    AND i.objid IN (SELECT s.seqrelid FROM pg_catalog.pg_sequence s)),
d AS (SELECT d.classid, d.objid, COALESCE(pg_catalog.array_agg(own.attnum) FILTER (WHERE own.attnum > 0), '{}') AS calls,
    COALESCE(pg_catalog.array_agg(d.refobjsubid) FILTER (WHERE d.refobjid = toid AND d.refobjsubid > 0), '{}') AS uses
  FROM pg_catalog.pg_depend d JOIN own ON own.oid = d.refobjid, t
  WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'n'
    AND (d.classid, d.objid) NOT IN (SELECT p.classid, p.objid FROM (PASSING) p) GROUP BY d.classid, d.objid)";

/// In the order in which things are put on. Each query gives the fields of [`Carried`].
fn kinds() -> [String; 9] {
    [
        publications::sql(),
        defaults::sql(),
        views::sql(),
        rules::of_others(),
        functions::SQL.to_owned(),
        triggers::sql(),
        rules::own(),
        policies::ENABLED.to_owned() + " UNION ALL " + &policies::own(),
        policies::of_others(),
    ]
}

/// The fields of [`Partner`] for the relation `oid`.
fn relation(oid: &str) -> String {
    format!(
        "(SELECT pg_catalog.jsonb_build_object('oid', pc.oid::int8, 'schema', pn.nspname, 'name', pc.relname, \
           'owner', pr.rolname, 'kind', pc.relkind, 'forces_row_security', pc.relrowsecurity AND pc.relforcerowsecurity) FROM pg_catalog.pg_class pc \
           JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace \
           JOIN pg_catalog.pg_roles pr ON pr.oid = pc.relowner WHERE pc.oid = {oid})"
    )
}

/// Whoever owns the relation, `r`, runs the statement; where he may not even name it, as he lacks USAGE on
/// its schema, the tool, which has his rights.
fn by_owner(relation: &str) -> String {
    format!(
        "r.rolname::pg_catalog.text AS owner, CASE WHEN pg_catalog.has_schema_privilege({relation}.relowner, \
         {relation}.relnamespace, 'USAGE') THEN r.rolname::pg_catalog.text END AS role"
    )
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

/// The table's columns that an object of its own depends on.
fn uses(catalog: &str, oid: &str) -> String {
    format!(
        "COALESCE((SELECT d.uses FROM d WHERE d.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass \
         AND d.objid = {oid}), '{{}}') AS uses"
    )
}
