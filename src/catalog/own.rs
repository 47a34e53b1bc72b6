//! What partitions have of their own, of that which a change of the table touches too.

use serde::Deserialize;
use serde_json::Value;

use super::parts::tree;
use super::read::{definitions, parse};
use crate::error::Result;
use crate::pg::Session;

/// A constraint or an index that the table has not.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct OwnOfPart {
    pub kind: OwnKind,
    pub name: String,
    /// What follows its name; of an index, what follows the table's. Empty where that is not known.
    pub definition: String,
    /// The partition, quoted and qualified; one of those that have it.
    pub part: String,
    /// The columns that a foreign key is about.
    pub columns: Vec<String>,
}

/// What it is.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OwnKind {
    Check,
    Exclusion,
    Index,
    UniqueIndex,
    /// Of either end.
    ForeignKey,
}

/// What the partitions below `root` have of their own, each definition once. An index that hangs on one that is not valid
/// is its own: nobody knows that one.
pub async fn own_of_parts(session: &Session, root: u32) -> Result<Vec<OwnOfPart>> {
    let sql = SQL.replace("TREE", &tree("$1::pg_catalog.oid"));
    let all = definitions(session, &sql, root).await?.get::<_, Option<Value>>(0);
    all.map_or_else(|| Ok(Vec::new()), parse)
}

const SQL: &str = "
WITH part AS (SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, n.nspname, c.relname
  FROM TREE t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE t.level > 0 AND c.relkind IN ('r', 'p'))
SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.kind, x.name, x.definition) FROM (
SELECT DISTINCT ON (a.kind, a.definition, a.columns) a.* FROM (
  SELECT 'check' AS kind, k.conname::pg_catalog.text AS name, pg_catalog.pg_get_constraintdef(k.oid) AS definition, p.name AS part,
    '{}'::pg_catalog.text[] AS columns
  FROM part p JOIN pg_catalog.pg_constraint k ON k.conrelid = p.oid WHERE k.contype = 'c' AND k.coninhcount = 0
  UNION ALL
  SELECT CASE WHEN i.indisexclusion THEN 'exclusion' WHEN i.indisunique THEN 'unique_index' ELSE 'index' END, ic.relname::pg_catalog.text,
    CASE WHEN i.indisexclusion THEN (SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
        WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('x', 'u', 'p'))
      WHEN pg_catalog.starts_with(pg_catalog.pg_get_indexdef(i.indexrelid), h.head)
      THEN pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.length(h.head) + 1) ELSE '' END, p.name, '{}'
  FROM part p JOIN pg_catalog.pg_index i ON i.indrelid = p.oid JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
  CROSS JOIN LATERAL (SELECT pg_catalog.format('CREATE %sINDEX %I ON %s%I.%I ',
    CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, ic.relname, CASE WHEN ic.relkind = 'I' THEN 'ONLY ' ELSE '' END,
    p.nspname, p.relname) AS head) h
  WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits g JOIN pg_catalog.pg_index u ON u.indexrelid = g.inhparent
    WHERE g.inhrelid = i.indexrelid AND u.indisvalid)
  UNION ALL
  SELECT 'foreign_key', k.conname::pg_catalog.text, '', p.name, ARRAY(SELECT t.attname::pg_catalog.text FROM pg_catalog.pg_attribute t
    WHERE t.attrelid = p.oid AND t.attnum = ANY (CASE p.oid WHEN k.conrelid THEN k.conkey ELSE k.confkey END) ORDER BY 1)
  FROM part p JOIN pg_catalog.pg_constraint k ON p.oid IN (k.conrelid, k.confrelid) WHERE k.contype = 'f' AND k.conparentid = 0
) a ORDER BY a.kind, a.definition, a.columns, a.name) x";
