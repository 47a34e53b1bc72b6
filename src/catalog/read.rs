//! Reads one table's model. Each query returns JSON that the model's types describe.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::Row;

use super::model::Table;
use super::parts;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, Session};

/// The oid of the table that `name` (as typed, perhaps qualified and quoted) means to the
/// operator, by the operator's own search path.
pub async fn find(session: &Session, name: &str) -> Result<u32> {
    session.batch("RESET search_path").await?;
    let found = session.maybe("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[&name]).await;
    session.batch("SET search_path = pg_catalog, pg_temp").await?;
    let bad = || {
        Error::usage(format!(
            "{name:?} is not a table's name; it may be schema-qualified and quoted: \
             public.orders, '\"My Table\"'"
        ))
    };
    match found {
        Ok(row) => match row.and_then(|r| r.get::<_, Option<u32>>(0)) {
            Some(oid) => Ok(oid),
            None => Err(not_found(session, name).await?),
        },
        Err(e) if e.db().is_some() => Err(bad().source(e)),
        Err(e) => Err(e),
    }
}

/// There may be one of that name in a schema that the search path leaves out.
async fn not_found(session: &Session, name: &str) -> Result<Error> {
    let sql = "SELECT COALESCE(pg_catalog.string_agg(pg_catalog.format('%s.%I', c.relnamespace::pg_catalog.regnamespace, c.relname), ', '), '') \
               FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') \
               AND (c.relname = $1 OR pg_catalog.quote_ident(c.relname) = $1 OR c.relname = pg_catalog.lower($1))";
    let elsewhere: String = session.one(sql, &[&name]).await?.get(0);
    Ok(if elsewhere.is_empty() {
        Error::usage(format!("there is no table {name} in this database"))
            .next("Check the name (quote it as in SQL, qualify it with its schema) and -d")
    } else {
        Error::usage(format!("there is no table {name} on the search path"))
            .next(format!("Did you mean {elsewhere}? Say it with its schema"))
    })
}

/// The name that the table has now, whatever it had; None where it is gone.
pub async fn name_of(session: &Session, oid: u32) -> Result<Option<QualifiedName>> {
    let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = session.maybe(sql, &[&oid]).await?;
    Ok(row.map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))))
}

/// Reads the table of this name, or None where there is none.
pub async fn read_named(session: &Session, name: &QualifiedName) -> Result<Option<Table>> {
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    match session.one(sql, &[&name.to_string()]).await?.get(0) {
        Some(oid) => read(session, oid).await,
        None => Ok(None),
    }
}

/// Reads the table with this oid, or None where it is gone.
pub async fn read(session: &Session, oid: u32) -> Result<Option<Table>> {
    // One statement, so that every part is of one snapshot.
    let sql = format!(
        "SELECT ({TABLE}) || pg_catalog.jsonb_build_object(\
           'columns', COALESCE(({COLUMNS}), '[]'), 'indexes', COALESCE(({INDEXES}), '[]'), \
           'constraints', COALESCE(({CONSTRAINTS}), '[]'), \
           'sequences', COALESCE(({SEQUENCES}), '[]'), \
           'statistics', COALESCE(({STATISTICS}), '[]'), \
           'foreign_keys', COALESCE(({FOREIGN_KEYS}), '[]'), 'parts', COALESCE(({}), '[]'))",
        parts::sql_of_parts(parts::BOUND)
    );
    let sql = sql
        .replace("TREE OF TABLE", &parts::tree("c.oid"))
        .replace("TREE OF INDEX", &parts::tree("i.indexrelid"));
    let row = definitions(session, &expand(&sql), oid).await?;
    row.get::<_, Option<Value>>(0).map(parse).transpose()
}

/// Runs a query that prints definitions, with constants of times and intervals as every setting reads
/// them again; data is converted under the session's own settings, so they are given back at once.
pub(super) async fn definitions(session: &Session, sql: &str, oid: u32) -> Result<Row> {
    // To parse and plan it takes ten times as long as to run it, and a rehearsal asks again and again.
    session.in_iso(session.one_again(sql, &[&oid])).await
}

pub(super) fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::failed(format!("the catalog holds what this version cannot read: {e}")))
}

/// Access control lists and comments are read alike everywhere: `{grants of X}`, and
/// `{comment of CATALOG OID SUBID}`.
fn expand(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() * 2);
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, behind) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        match inside.split(' ').collect::<Vec<_>>()[..] {
            ["grants", "of", acl] => out.push_str(&grants(acl)),
            ["comment", "of", catalog, oid, part] => out.push_str(&comment(catalog, oid, part)),
            _ => out.push_str(&format!("{{{inside}}}")),
        }
        rest = behind;
    }
    out + rest
}

fn grants(acl: &str) -> String {
    format!(
        "CASE WHEN {acl} IS NULL THEN NULL ELSE COALESCE((
      SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('grantor', g.rolname, 'grantee', e.rolname,
        'privilege', x.privilege_type, 'grantable', x.is_grantable) ORDER BY e.rolname, g.rolname, x.privilege_type)
      FROM pg_catalog.aclexplode({acl}) x JOIN pg_catalog.pg_roles g ON g.oid = x.grantor
      LEFT JOIN pg_catalog.pg_roles e ON e.oid = x.grantee), '[]') END"
    )
}

fn comment(catalog: &str, oid: &str, part: &str) -> String {
    format!(
        "(SELECT o.description FROM pg_catalog.pg_description o
      WHERE o.classoid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND o.objoid = {oid} AND o.objsubid = {part})"
    )
}

const TABLE: &str = "SELECT pg_catalog.to_jsonb(x) FROM (
  SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, r.rolname AS owner, c.relkind AS kind,
    c.relpersistence AS persistence, am.amname AS access_method, ts.spcname AS tablespace,
    pg_catalog.pg_get_partkeydef(c.oid) AS partition_key,
    c.relispartition AS is_partition, c.relrowsecurity AS row_security,
    c.relforcerowsecurity AS force_row_security, c.relreplident AS replica_identity,
    CASE c.relkind WHEN 'p' THEN size.rows ELSE c.reltuples::float8 END AS estimated_rows,
    size.heap AS heap_bytes, size.total AS total_bytes,
    COALESCE(c.reloptions, '{}') AS options,
    COALESCE((SELECT x.reloptions FROM pg_catalog.pg_class x WHERE x.oid = c.reltoastrelid), '{}') AS toast_options,
    {comment of pg_class c.oid 0} AS comment, {comment of pg_type c.reltype 0} AS type_comment,
    {grants of c.relacl} AS grants,
    COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', s.attname, 'grants', {grants of s.attacl}) ORDER BY s.attnum)
      FROM pg_catalog.pg_attribute s WHERE s.attrelid = c.oid AND s.attnum < 0 AND s.attacl IS NOT NULL), '[]') AS system_columns
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
  LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = c.reltablespace
  CROSS JOIN LATERAL (SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_table_size(l.oid)), 0)::pg_catalog.int8 AS heap,
    COALESCE(pg_catalog.sum(pg_catalog.pg_total_relation_size(l.oid)), 0)::pg_catalog.int8 AS total,
    COALESCE(pg_catalog.sum(GREATEST(l.reltuples, 0)) FILTER (WHERE l.relkind <> 'p'), 0)::float8 AS rows
    FROM TREE OF TABLE t JOIN pg_catalog.pg_class l ON l.oid = t.oid) size
  WHERE c.oid = $1) x";

// Only a generated column's expression names columns. For the others the relation is left out: naming
// every column of a wide table for each of them takes minutes.
const COLUMNS: &str = "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.attnum) FROM (
  SELECT a.attnum, a.attname AS name, a.atttypid::int8 AS type_oid,
    pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_sql,
    pg_catalog.format_type(a.atttypid, -1) AS base_type_sql,
    tn.nspname AS type_schema, t.typname AS type_name, t.typtype AS type_kind,
    t.typcategory AS type_category,
    t.typsend <> 0 AND t.typreceive <> 0 AS has_binary,
    CASE WHEN a.attcollation <> t.typcollation THEN
      pg_catalog.format('%I.%I', cn.nspname, co.collname) END AS collation,
    CASE WHEN co.oid IS NOT NULL THEN pg_catalog.format('%I.%I', cn.nspname, co.collname) END AS collated,
    COALESCE(co.collisdeterministic, true) AS collation_deterministic,
    COALESCE((SELECT opn.nspname FROM pg_catalog.pg_opclass oc JOIN pg_catalog.pg_am m ON m.oid = oc.opcmethod
      JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
      JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr
      JOIN pg_catalog.pg_namespace opn ON opn.oid = op.oprnamespace
      WHERE m.amname = 'btree' AND oc.opcdefault
        AND oc.opcintype = COALESCE(NULLIF(t.typbasetype, 0), t.oid)), 'pg_catalog') AS operator_schema,
    a.attnotnull AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid
      AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated) AS not_null,
    pg_catalog.pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END) AS default,
    EXISTS (SELECT 1 FROM pg_catalog.pg_depend n WHERE n.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND n.objid = d.oid
      AND n.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND n.deptype = 'n' AND n.refobjsubid = 0
      AND (n.refobjid = a.attrelid OR n.refobjid IN (SELECT i.objid FROM pg_catalog.pg_depend i
        WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.refobjid = a.attrelid AND i.deptype = 'i'
          AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass))) AS default_names_table,
    a.attgenerated AS generated, a.attidentity AS identity,
    a.attstorage AS storage, a.attcompression AS compression,
    NULLIF(a.attstattarget, -1) AS statistics_target, COALESCE(a.attoptions, '{}') AS options,
    {grants of a.attacl} AS grants, {comment of pg_class a.attrelid a.attnum} AS comment
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped) x";

// The definition's head is made again from the same parts and cut off; where it does not match
// (a form of some later version), the definition is empty and the index is refused.
const INDEXES: &str = "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.primary DESC, x.oid) FROM (
  SELECT i.indexrelid::int8 AS oid, ic.relname AS name,
    CASE WHEN pg_catalog.starts_with(pg_catalog.pg_get_indexdef(i.indexrelid), h.head)
      THEN pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.length(h.head) + 1)
      ELSE '' END AS definition,
    i.indisunique AS unique, i.indisprimary AS primary, i.indisexclusion AS exclusion,
    i.indimmediate AS immediate, i.indisvalid AND i.indisready AND i.indislive AS valid,
    i.indisreplident AS replica_identity, i.indisclustered AS clustered,
    i.indpred IS NOT NULL AS partial,
    (SELECT pg_catalog.array_agg(u ORDER BY o) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(u, o)
      WHERE o <= i.indnkeyatts) AS attnums,
    (SELECT pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, o, false) ORDER BY o)
      FROM pg_catalog.generate_series(1, i.indnkeyatts) o) AS expressions,
    (SELECT pg_catalog.bool_and(oc.opcdefault AND i.indcollation[o - 1] = COALESCE(a.attcollation, i.indcollation[o - 1]))
      FROM pg_catalog.generate_series(1, i.indnkeyatts) o
      JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[o - 1]
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[o - 1]) AS plain_key,
    (SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_relation_size(t.oid)), 0)::pg_catalog.int8 FROM TREE OF INDEX t) AS bytes, ts.spcname AS tablespace,
    COALESCE(ic.reloptions, '{}') AS options, {comment of pg_class i.indexrelid 0} AS comment,
    COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(ia.attnum, ia.attstattarget) ORDER BY ia.attnum)
      FROM pg_catalog.pg_attribute ia WHERE ia.attrelid = i.indexrelid AND ia.attstattarget >= 0), '[]') AS statistics_targets
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace
  CROSS JOIN LATERAL (SELECT pg_catalog.format('CREATE %sINDEX %I ON %s%I.%I ',
    CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, ic.relname, CASE WHEN ic.relkind = 'I' THEN 'ONLY ' ELSE '' END,
    n.nspname, c.relname) AS head) h
  WHERE i.indrelid = $1) x";

const CONSTRAINTS: &str =
    "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.oid) FROM (
  SELECT k.oid::int8 AS oid, k.conname AS name, k.contype AS kind,
    pg_catalog.pg_get_constraintdef(k.oid) AS definition, k.convalidated AS validated,
    k.condeferrable AS deferrable, k.condeferred AS deferred, k.conindid::int8 AS index_oid,
    COALESCE((pg_catalog.to_jsonb(k)->>'conperiod')::bool, false) AS temporal, k.connoinherit AS no_inherit,
    COALESCE(k.conkey, '{}') AS attnums,
    {comment of pg_constraint k.oid 0} AS comment
  FROM pg_catalog.pg_constraint k WHERE k.conrelid = $1 AND k.contype NOT IN ('f', 't')) x";

const SEQUENCES: &str = "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.attnum, x.oid) FROM (
  SELECT s.seqrelid::int8 AS oid, n.nspname AS schema, c.relname AS name, d.refobjsubid AS attnum,
    d.deptype = 'i' AS identity, pg_catalog.format_type(s.seqtypid, NULL) AS type_sql,
    s.seqstart AS start, s.seqincrement AS increment, s.seqmin AS min, s.seqmax AS max,
    s.seqcache AS cache, s.seqcycle AS cycle,
    {grants of c.relacl} AS grants, {comment of pg_class s.seqrelid 0} AS comment
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')) x";

// The head and the tail of the definition are made again from the same parts and cut off.
const STATISTICS: &str = "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.schema, x.name) FROM (
  SELECT n.nspname AS schema, s.stxname AS name, r.rolname AS owner,
    CASE WHEN pg_catalog.starts_with(p.whole, p.head) AND pg_catalog.right(p.whole, pg_catalog.length(p.tail)) = p.tail
      THEN pg_catalog.substr(p.whole, pg_catalog.length(p.head) + 1,
        pg_catalog.length(p.whole) - pg_catalog.length(p.head) - pg_catalog.length(p.tail))
      ELSE '' END AS definition,
    NULLIF(s.stxstattarget, -1) AS target, {comment of pg_statistic_ext s.oid 0} AS comment
  FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
  JOIN pg_catalog.pg_roles r ON r.oid = s.stxowner JOIN pg_catalog.pg_class c ON c.oid = s.stxrelid
  JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_statisticsobjdef(s.oid) AS whole,
    pg_catalog.format('CREATE STATISTICS %I.%I ', n.nspname, s.stxname) AS head,
    pg_catalog.format(' FROM %I.%I', cn.nspname, c.relname) AS tail) p
  WHERE s.stxrelid = $1) x";

// Those of partitions belong to the one of the partitioned table.
const FOREIGN_KEYS: &str = "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x) ORDER BY x.oid) FROM (
  SELECT k.oid::int8 AS oid, k.conname AS name, pg_catalog.pg_get_constraintdef(k.oid) AS definition,
    k.conkey AS columns, k.confkey AS to_columns,
    ARRAY(SELECT ka.attname FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u (attnum, n)
      JOIN pg_catalog.pg_attribute ka ON ka.attrelid = k.confrelid AND ka.attnum = u.attnum ORDER BY u.n) AS to_names,
    k.convalidated AS validated, {comment of pg_constraint k.oid 0} AS comment,
    pg_catalog.jsonb_build_object('oid', a.oid::int8, 'schema', an.nspname, 'name', a.relname, 'owner', ar.rolname,
      'kind', a.relkind, 'forces_row_security', a.relrowsecurity AND a.relforcerowsecurity) AS from,
    pg_catalog.jsonb_build_object('oid', b.oid::int8, 'schema', bn.nspname, 'name', b.relname, 'owner', br.rolname,
      'kind', b.relkind, 'forces_row_security', b.relrowsecurity AND b.relforcerowsecurity) AS to,
    uk.oid IS NOT NULL AS to_key_is_constraint,
    COALESCE(pg_catalog.pg_get_constraintdef(uk.oid), pg_catalog.substr(pg_catalog.pg_get_indexdef(k.conindid),
      pg_catalog.length(pg_catalog.format('CREATE UNIQUE INDEX %I ON %s%I.%I ', i.relname,
        CASE WHEN i.relkind = 'I' THEN 'ONLY ' ELSE '' END, bn.nspname, b.relname)) + 1)) AS to_key
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class a ON a.oid = k.conrelid JOIN pg_catalog.pg_namespace an ON an.oid = a.relnamespace
  JOIN pg_catalog.pg_roles ar ON ar.oid = a.relowner
  JOIN pg_catalog.pg_class b ON b.oid = k.confrelid JOIN pg_catalog.pg_namespace bn ON bn.oid = b.relnamespace
  JOIN pg_catalog.pg_roles br ON br.oid = b.relowner
  JOIN pg_catalog.pg_class i ON i.oid = k.conindid
  LEFT JOIN pg_catalog.pg_constraint uk ON uk.conindid = k.conindid AND uk.contype IN ('p', 'u') AND uk.conrelid = b.oid
  WHERE k.contype = 'f' AND k.conparentid = 0 AND $1 IN (k.conrelid, k.confrelid)) x";
