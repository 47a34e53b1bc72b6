//! Triggers of the table, constraint triggers too, with their states and comments. Those of
//! constraints belong to the constraints.

pub(super) const SQL: &str = "
SELECT 'trigger' AS kind, g.tgname::pg_catalog.text AS name, t.owner::pg_catalog.text AS role,
  ARRAY[pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, t.tname)] AS unbind,
  pg_catalog.array_remove(ARRAY[pg_catalog.pg_get_triggerdef(g.oid),
    CASE g.tgenabled WHEN 'D' THEN pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', t.tname, g.tgname)
      WHEN 'A' THEN pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.tname, g.tgname)
      WHEN 'R' THEN pg_catalog.format('ALTER TABLE %s ENABLE REPLICA TRIGGER %I', t.tname, g.tgname) END,
    (SELECT pg_catalog.format('COMMENT ON TRIGGER %I ON %s IS %L', g.tgname, t.tname, d.description)
      FROM pg_catalog.pg_description d
      WHERE d.classoid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND d.objoid = g.oid)], NULL) AS bind,
  g.tgname::pg_catalog.text AS place
FROM pg_catalog.pg_trigger g, t WHERE g.tgrelid = t.toid AND NOT g.tgisinternal";
