//! Constants that name a table, or what of its the new one gets under the same name: once they are parsed
//! they mean the object, whatever has its name afterwards.

use crate::error::Result;
use crate::pg::Session;

/// The table `toid`, its indexes, and the sequences of its identity columns.
pub(super) const OWN: &str = "
  SELECT toid AS oid UNION ALL SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = toid
  UNION ALL SELECT i.objid FROM pg_catalog.pg_depend i WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND i.refobjid = toid AND i.deptype = 'i' AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND i.objid IN (SELECT s.seqrelid FROM pg_catalog.pg_sequence s)";

/// Expressions of the table `toid` that the new one is made with, printed and as they are kept: of columns of
/// the table itself pg_depend does not say how they are named.
pub(super) const EXPRESSIONS: &str = "
  SELECT 'index' AS kind, x.indexrelid::pg_catalog.regclass::pg_catalog.text AS name, pg_catalog.pg_get_indexdef(x.indexrelid) AS text,
    pg_catalog.concat(x.indexprs::pg_catalog.text, x.indpred::pg_catalog.text) AS tree
    FROM pg_catalog.pg_index x WHERE x.indrelid = toid
  UNION ALL SELECT 'generated column', a.attname, pg_catalog.pg_get_expr(f.adbin, f.adrelid), f.adbin::pg_catalog.text
    FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE f.adrelid = toid AND a.attgenerated <> ''
  UNION ALL SELECT 'constraint', k.conname, pg_catalog.pg_get_constraintdef(k.oid), k.conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint k WHERE k.conrelid = toid AND k.contype = 'c'
  UNION ALL SELECT 'extended statistics', pg_catalog.format('%s.%I', s.stxnamespace::pg_catalog.regnamespace, s.stxname),
    pg_catalog.pg_get_statisticsobjdef(s.oid), s.stxexprs::pg_catalog.text
    FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = toid";

/// What of one table names another.
pub struct Naming {
    /// Columns whose defaults name it, or the sequence of one of its identity columns.
    pub defaults: Vec<i16>,
    /// Whatever else, as PostgreSQL describes it.
    pub others: Vec<String>,
}

/// What of the table `oid` names the table `other`.
pub async fn naming(session: &Session, oid: u32, other: u32) -> Result<Naming> {
    let sql = format!(
        "WITH t AS (SELECT $2::pg_catalog.oid AS toid), own AS (SELECT o.oid FROM t, LATERAL ({OWN}) o),
         named AS (SELECT DISTINCT d.classid, d.objid, a.attnum, d.refobjid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i) AS by_index
           FROM pg_catalog.pg_depend d JOIN own ON own.oid = d.refobjid
           LEFT JOIN (pg_catalog.pg_attrdef f JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
             AND a.attgenerated = '') ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND f.oid = d.objid
           WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'n' AND (d.classid, d.objid) IN (
             SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, x.oid FROM pg_catalog.pg_attrdef x WHERE x.adrelid = $1
             UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid FROM pg_catalog.pg_constraint k
               WHERE k.conrelid = $1 AND k.contype <> 'f'
             UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = $1))
         SELECT ARRAY(SELECT DISTINCT attnum FROM named WHERE attnum IS NOT NULL AND NOT by_index),
           ARRAY(SELECT pg_catalog.pg_describe_object(classid, objid, 0) FROM named WHERE attnum IS NULL OR by_index ORDER BY 1)"
    );
    let row = session.one(&sql, &[&oid, &other]).await?;
    Ok(Naming { defaults: row.get(0), others: row.get(1) })
}
