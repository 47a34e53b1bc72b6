//! Rules of the table, with their states and comments.

pub(super) const SQL: &str = "
SELECT 'rule' AS kind, w.rulename::pg_catalog.text AS name, t.owner::pg_catalog.text AS role,
  ARRAY[pg_catalog.format('DROP RULE %I ON %s', w.rulename, t.tname)] AS unbind,
  pg_catalog.array_remove(ARRAY[pg_catalog.pg_get_ruledef(w.oid),
    CASE w.ev_enabled WHEN 'D' THEN pg_catalog.format('ALTER TABLE %s DISABLE RULE %I', t.tname, w.rulename)
      WHEN 'A' THEN pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS RULE %I', t.tname, w.rulename)
      WHEN 'R' THEN pg_catalog.format('ALTER TABLE %s ENABLE REPLICA RULE %I', t.tname, w.rulename) END,
    (SELECT pg_catalog.format('COMMENT ON RULE %I ON %s IS %L', w.rulename, t.tname, d.description)
      FROM pg_catalog.pg_description d
      WHERE d.classoid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objoid = w.oid)], NULL) AS bind,
  w.rulename::pg_catalog.text AS place
FROM pg_catalog.pg_rewrite w, t WHERE w.ev_class = t.toid";
