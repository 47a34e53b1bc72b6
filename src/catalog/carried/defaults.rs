//! Defaults of other tables' columns that call a sequence of the table's, or name the table.

use super::{by_owner, relation};

pub(super) fn sql() -> String {
    format!(
        "SELECT 'default' AS kind, 'pg_attrdef' AS class, f.oid::int8 AS oid, pg_catalog.format('of column %I of %s', a.attname, o.oid::pg_catalog.regclass) AS name,
           {}, '{{}}'::pg_catalog.text[] AS unbind,
           ARRAY[pg_catalog.format('ALTER %s %s ALTER COLUMN %I SET DEFAULT %s',
             CASE o.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE ONLY' END,
             pg_catalog.format('%I.%I', n.nspname, o.relname), a.attname, pg_catalog.pg_get_expr(f.adbin, f.adrelid))] AS bind,
           {} AS relation, d.calls
         FROM d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
         JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
         JOIN pg_catalog.pg_class o ON o.oid = f.adrelid JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace
         JOIN pg_catalog.pg_roles r ON r.oid = o.relowner, t
         WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND f.adrelid <> t.toid AND a.attgenerated = ''",
        by_owner("o"),
        relation("o.oid")
    )
}
