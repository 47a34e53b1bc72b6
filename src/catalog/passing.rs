//! What refers to a table only for as long as a session lasts: temporary views over it, and the like of
//! it on temporary tables. Nobody but that session can alter them, so that they can only be waited for.

use crate::error::Result;
use crate::pg::Session;

/// Objects of temporary relations and in temporary schemas: catalog, id, and the view that the rule is
/// all of.
pub(super) const OBJECTS: &str = "
  SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass AS classid, w.oid AS objid, c.oid AS view
    FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND w.ev_type = '1' WHERE c.relpersistence = 't'
  UNION ALL SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid, NULL
    FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND w.ev_type <> '1' WHERE c.relpersistence = 't'
  UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, NULL
    FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid WHERE c.relpersistence = 't'
  UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, f.oid, NULL
    FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_class c ON c.oid = f.adrelid WHERE c.relpersistence = 't'
  UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, NULL FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE pg_catalog.starts_with(n.nspname, 'pg_temp_')";

/// What refers to the table `oid`, to one of its indexes, or to the sequence of one of its identity columns,
/// and will pass; as PostgreSQL describes it.
pub async fn passing(session: &Session, oid: u32) -> Result<Vec<String>> {
    let sql = format!(
        "WITH own AS (SELECT $1::pg_catalog.oid AS oid
           UNION ALL SELECT x.indexrelid FROM pg_catalog.pg_index x WHERE x.indrelid = $1
           UNION ALL SELECT i.objid FROM pg_catalog.pg_depend i
           JOIN pg_catalog.pg_sequence s ON s.seqrelid = i.objid
           WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.refobjid = $1
             AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.deptype = 'i')
         SELECT DISTINCT COALESCE(pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, o.view, 0),
           pg_catalog.pg_describe_object(o.classid, o.objid, 0)) FROM pg_catalog.pg_depend d
         JOIN own ON own.oid = d.refobjid JOIN ({OBJECTS}) o ON (o.classid, o.objid) = (d.classid, d.objid)
         WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'n' ORDER BY 1"
    );
    let rows = session.query(&sql, &[&oid]).await?;
    // One may be dropped just now: then there is nothing to describe.
    Ok(rows.iter().filter_map(|row| row.get(0)).collect())
}
