//! Functions and procedures with an SQL body (BEGIN ATOMIC), or a default, that mentions the table.

/// Replaced by their owner; where he may not create in the schema any more, or say LEAKPROOF, by the
/// tool, which leaves the owner what he is. Replacing one forgets that it DEPENDS ON EXTENSION.
pub(super) const SQL: &str = "
SELECT 'function' AS kind, 'pg_proc' AS class, f.oid::int8 AS oid, f.oid::pg_catalog.regprocedure::pg_catalog.text AS name, r.rolname::pg_catalog.text AS owner,
  CASE WHEN pg_catalog.has_schema_privilege(f.proowner, f.pronamespace, 'CREATE') AND NOT f.proleakproof THEN r.rolname::pg_catalog.text END AS role,
  '{}'::pg_catalog.text[] AS unbind, ARRAY[f.text] || COALESCE((SELECT pg_catalog.array_agg(pg_catalog.format('ALTER ROUTINE %s DEPENDS ON EXTENSION %I',
      f.oid::pg_catalog.regprocedure, e.extname)) FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid
    WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = f.oid AND x.deptype = 'x'), '{}') AS bind, n.nspname::pg_catalog.text AS schema, d.uses, d.calls,
  ARRAY[f.begins || 'pgwraith_trial' || pg_catalog.substr(f.text,
    pg_catalog.length(f.begins || pg_catalog.quote_ident(n.nspname)) + 1)] AS trial
FROM d JOIN (SELECT p.*, pg_catalog.pg_get_functiondef(p.oid) AS text,
    CASE p.prokind WHEN 'p' THEN 'CREATE OR REPLACE PROCEDURE ' ELSE 'CREATE OR REPLACE FUNCTION ' END AS begins
  FROM pg_catalog.pg_proc p WHERE p.prokind <> 'a') f ON f.oid = d.objid
JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace JOIN pg_catalog.pg_roles r ON r.oid = f.proowner
WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass";
