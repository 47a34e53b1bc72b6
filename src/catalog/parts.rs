//! The partitions of a partitioned table, however deep they are.

use serde::Deserialize;
use serde_json::Value;

use super::model::Table;
use super::read::parse;
use crate::error::Result;
use crate::pg::{QualifiedName, Session};

/// One partition: a table that holds rows, or one that is divided itself.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Part {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub owner: String,
    /// `pg_class.relkind`.
    pub kind: char,
    /// `pg_class.relpersistence`.
    pub persistence: char,
    pub access_method: Option<String>,
    /// A DETACH CONCURRENTLY of it did not come to its end.
    pub detaching: bool,
    /// How far below the root.
    pub level: i32,
    /// What it is a part of: the table, or another partition.
    pub parent: u32,
    /// `RANGE (…)`, where it is divided itself.
    pub partition_key: Option<String>,
    /// `FOR VALUES …`, or `DEFAULT`.
    pub bound: Option<String>,
    /// `pg_class.relreplident`.
    pub replica_identity: char,
    /// The columns of the index that its rows are known by in the log, in the order of their names; empty where there
    /// is none.
    pub identity: Vec<String>,
    /// The unique index of its own that is a part of the root's key; None where there is none.
    pub key_index: Option<String>,
    /// Storage parameters, `name=value`.
    pub options: Vec<String>,
    /// Those of its TOAST table.
    pub toast_options: Vec<String>,
    pub comment: Option<String>,
    /// What else it has that the table does not give its partitions, as a DBA calls it.
    pub own: Vec<String>,
    /// Its columns and indexes that have settings of their own: which are not the table's, and not what a new partition
    /// has.
    pub told: Vec<String>,
    /// It and its indexes: the names of relations in its schema.
    pub relations: Vec<String>,
}

impl Part {
    /// The partition's qualified name.
    pub fn qualified(&self) -> QualifiedName {
        QualifiedName::new(&self.schema, &self.name)
    }

    /// Whether it holds rows.
    pub fn is_leaf(&self) -> bool {
        self.kind != 'p'
    }
}

impl Table {
    /// Whether its rows are in partitions.
    pub fn is_partitioned(&self) -> bool {
        self.kind == 'p'
    }

    /// The partitions that hold rows.
    pub fn leaves(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.is_leaf())
    }

    /// What follows FROM where its rows are read, all of them and no others.
    pub fn scanned(&self) -> String {
        scanned(&self.qualified(), self.is_partitioned())
    }
}

/// What follows FROM where rows of a relation are read. An ordinary table could be inherited from one day.
pub fn scanned(name: &QualifiedName, is_partitioned: bool) -> String {
    if is_partitioned { name.to_string() } else { format!("ONLY {name}") }
}

/// The relation `root` (SQL for an oid) and all partitions below it, as `oid` and `level`, of tables and of indexes.
/// Unlike `pg_partition_tree` it locks none.
pub(super) fn tree(root: &str) -> String {
    format!(
        "(WITH RECURSIVE tree (oid, level) AS (SELECT {root}, 0 UNION ALL \
           SELECT i.inhrelid, p.level + 1 FROM tree p JOIN pg_catalog.pg_class pc ON pc.oid = p.oid AND pc.relkind IN ('p', 'I') \
           JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid) SELECT oid, level FROM tree)"
    )
}

/// The table `root` and all partitions below it.
pub async fn relations(session: &Session, root: u32) -> Result<Vec<u32>> {
    let sql = format!("SELECT ARRAY(SELECT t.oid FROM {} t)", tree("$1::pg_catalog.oid"));
    Ok(session.one(&sql, &[&root]).await?.get(0))
}

/// The partition `oid` of the table `root`, but for its bound; None where it is divided itself, or gone again. Waits for
/// nobody.
pub async fn new_leaf(session: &Session, root: u32, oid: u32) -> Result<Option<Part>> {
    let sql = sql_of_parts("NULL");
    let parts = session.one(&sql, &[&root]).await?.get::<_, Option<Value>>(0);
    let parts: Vec<Part> = parts.map(parse).transpose()?.unwrap_or_default();
    Ok(parts.into_iter().find(|part| part.oid == oid && part.is_leaf()))
}

/// The bound of the relation `c`. That locks it.
pub(super) const BOUND: &str = "pg_catalog.pg_get_expr(c.relpartbound, c.oid)";

/// What [`Part`] is read from, of the table $1; its bound by the expression `bound`.
pub(super) fn sql_of_parts(bound: &str) -> String {
    format!(
        "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.level, x.oid) FROM (
  SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, r.rolname AS owner, c.relkind AS kind,
    c.relpersistence AS persistence, am.amname AS access_method, t.level,
    (SELECT h.inhparent::int8 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) AS parent,
    CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS partition_key,
    (SELECT pg_catalog.bool_or(h.inhdetachpending) FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) AS detaching,
    {bound} AS bound, c.relreplident AS replica_identity,
    {IDENTITY} AS identity,
    (SELECT ic.relname FROM pg_catalog.pg_index ki, LATERAL {key_tree} k, pg_catalog.pg_index i
      JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
      WHERE ki.indrelid = $1 AND CASE root.relreplident WHEN 'i' THEN ki.indisreplident ELSE ki.indisprimary END
        AND k.oid = i.indexrelid AND i.indrelid = c.oid) AS key_index,
    pg_catalog.array_remove(ARRAY[
      CASE WHEN c.reltablespace <> root.reltablespace THEN 'another tablespace' END,
      CASE WHEN n.oid <> root.relnamespace THEN 'another schema' END,
      CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.aclexplode(c.relacl) g WHERE g.grantee <> c.relowner) THEN 'privileges' END], NULL)
      || ARRAY(SELECT pg_catalog.format('privileges on column %I', a.attname) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0
          AND EXISTS (SELECT 1 FROM pg_catalog.aclexplode(a.attacl) g WHERE g.grantee <> c.relowner) ORDER BY a.attnum) AS own,
    ARRAY(SELECT pg_catalog.format('column %I', a.attname) FROM {both_columns}
      WHERE (a.attstorage, a.attcompression) IS DISTINCT FROM (r.attstorage, r.attcompression)
        OR a.attstattarget <> -1 AND a.attstattarget IS DISTINCT FROM r.attstattarget
        OR a.attoptions IS NOT NULL AND a.attoptions IS DISTINCT FROM r.attoptions
        OR a.attgenerated = '' AND {default_of_part} <> COALESCE({default_of_root}, '')
        OR pg_catalog.col_description(a.attrelid, a.attnum) <> COALESCE(pg_catalog.col_description(r.attrelid, r.attnum), '')
      ORDER BY a.attnum)
      || ARRAY(SELECT pg_catalog.format('index %I', ic.relname) FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid JOIN pg_catalog.pg_inherits h ON h.inhrelid = ic.oid
        JOIN pg_catalog.pg_class whole ON whole.oid = h.inhparent
        WHERE i.indrelid = c.oid AND (i.indisclustered OR ic.reloptions IS NOT NULL AND ic.reloptions IS DISTINCT FROM whole.reloptions
          OR pg_catalog.obj_description(ic.oid, 'pg_class') <> COALESCE(pg_catalog.obj_description(whole.oid, 'pg_class'), ''))
        ORDER BY ic.relname) AS told,
    COALESCE(c.reloptions, '{{}}') AS options,
    COALESCE((SELECT o.reloptions FROM pg_catalog.pg_class o WHERE o.oid = c.reltoastrelid), '{{}}') AS toast_options,
    pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
    ARRAY(SELECT c.relname UNION ALL SELECT ic.relname FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = c.oid ORDER BY 1) AS relations
  FROM {tree} t JOIN pg_catalog.pg_class c ON c.oid = t.oid
  JOIN pg_catalog.pg_class root ON root.oid = $1
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
  LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE t.level > 0) x",
        tree = tree("$1::pg_catalog.oid"),
        key_tree = tree("ki.indexrelid"),
        both_columns = BOTH_COLUMNS,
        default_of_part = default_of("a"),
        default_of_root = default_of("r"),
    )
}

/// A column of the relation `c`, and of the table `root` that of the same name.
const BOTH_COLUMNS: &str = "pg_catalog.pg_attribute a JOIN pg_catalog.pg_attribute r \
    ON r.attrelid = root.oid AND r.attname = a.attname AND a.attrelid = c.oid AND a.attnum > 0";

/// As it is stored, wherever in a statement it stood. To print it would lock the table.
fn default_of(column: &str) -> String {
    format!(
        "(SELECT pg_catalog.regexp_replace(f.adbin::pg_catalog.text, ':location -?[0-9]+', '', 'g') \
          FROM pg_catalog.pg_attrdef f WHERE f.adrelid = {column}.attrelid AND f.adnum = {column}.attnum)"
    )
}

/// The columns by which the log knows the rows of the relation `c`.
pub(super) const IDENTITY: &str = "ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index ii
      JOIN pg_catalog.pg_attribute a ON a.attrelid = ii.indrelid AND a.attnum = ANY ((ii.indkey::pg_catalog.int2[])[0:ii.indnkeyatts - 1])
      WHERE ii.indrelid = c.oid AND ii.indisvalid
        AND (c.relreplident = 'd' AND ii.indisprimary AND ii.indimmediate OR c.relreplident = 'i' AND ii.indisreplident)
      ORDER BY 1)";
