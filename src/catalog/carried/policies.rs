//! Row security: whether it is on, and the policies with their comments; and the policies of other
//! tables that mention the table.

use super::{by_owner, comment, relation, uses};

/// ENABLE and FORCE. The old table keeps both, so that it shows nobody more than before.
pub(super) const ENABLED: &str = "
SELECT 'row security' AS kind, '' AS class, 0::int8 AS oid, t.relname::pg_catalog.text AS name, t.owner AS role,
  '{}'::pg_catalog.text[] AS unbind,
  pg_catalog.array_remove(ARRAY[
    CASE WHEN t.relrowsecurity THEN pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t.tname) END,
    CASE WHEN t.relforcerowsecurity THEN pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t.tname) END],
    NULL) AS bind, '{}'::pg_catalog.int4[] AS uses
FROM t WHERE t.relrowsecurity OR t.relforcerowsecurity";

/// The old table keeps its policies.
pub(super) fn own() -> String {
    format!("
SELECT 'policy' AS kind, 'pg_policy' AS class, p.oid::int8 AS oid, p.polname::pg_catalog.text AS name, t.owner AS role,
  '{{}}'::pg_catalog.text[] AS unbind,
  pg_catalog.array_remove(ARRAY[
    pg_catalog.format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, t.tname,
      CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
      CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
      (SELECT pg_catalog.string_agg(CASE WHEN o = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END, ', ' ORDER BY r.rolname)
        FROM pg_catalog.unnest(p.polroles) o LEFT JOIN pg_catalog.pg_roles r ON r.oid = o))
    || COALESCE(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', '')
    || COALESCE(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
    {}], NULL) AS bind, {}
FROM pg_catalog.pg_policy p, t WHERE p.polrelid = t.toid",
        comment("POLICY", "p.polname", "pg_policy", "p.oid"),
        uses("pg_policy", "p.oid")
    )
}

/// The expressions alone are said again; who and what for stays as it is.
pub(super) fn of_others() -> String {
    format!("
SELECT 'policy' AS kind, 'pg_policy' AS class, p.oid::int8 AS oid, pg_catalog.format('%I on %s', p.polname, o.oid::pg_catalog.regclass) AS name,
  {}, '{{}}'::pg_catalog.text[] AS unbind,
  ARRAY[x.text] AS bind, {} AS relation, d.uses, d.calls,
  ARRAY[pg_catalog.format('CREATE POLICY %I ON %I.%I FOR %s', p.polname, n.nspname, o.relname,
    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
    || CASE WHEN p.polcmd = 'a' THEN ' WITH CHECK (true)' ELSE ' USING (true)' END), x.text] AS trial
FROM d JOIN pg_catalog.pg_policy p ON p.oid = d.objid JOIN pg_catalog.pg_class o ON o.oid = p.polrelid
JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = o.relowner, t,
  LATERAL (SELECT pg_catalog.format('ALTER POLICY %I ON %I.%I', p.polname, n.nspname, o.relname)
    || COALESCE(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', '')
    || COALESCE(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') AS text) x
WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.polrelid <> t.toid",
        by_owner("o"),
        relation("o.oid")
    )
}
