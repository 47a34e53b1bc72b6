//! Membership in publications, with column list and row filter. Ours is not one of them.

use super::uses;

/// Needs the rights of the publication's owner and of the table's.
pub(super) fn sql() -> String {
    format!(
        "
SELECT 'publication' AS kind, p.pubname::pg_catalog.text AS name, u.rolname::pg_catalog.text AS owner,
  NULL::pg_catalog.text AS role,
  ARRAY[pg_catalog.format('ALTER PUBLICATION %I DROP TABLE ONLY %s', p.pubname, t.tname)] AS unbind,
  ARRAY[pg_catalog.format('ALTER PUBLICATION %I ADD TABLE ONLY %s', p.pubname, m.text)] AS bind,
  ARRAY[pg_catalog.format('CREATE PUBLICATION pgwraith_trial FOR TABLE ONLY %s WITH (publish_via_partition_root = %L)', m.text, p.pubviaroot::pg_catalog.text),
    'DROP PUBLICATION pgwraith_trial'] AS trial, {}
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
  JOIN pg_catalog.pg_roles u ON u.oid = p.pubowner, t,
  LATERAL (SELECT t.tname || COALESCE((SELECT ' (' || pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.n) || ')'
      FROM pg_catalog.unnest(r.prattrs::pg_catalog.int2[]) WITH ORDINALITY k (attnum, n)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.attnum), '')
    || COALESCE(' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')', '') AS text) m
WHERE r.prrelid = t.toid AND p.pubname OPERATOR(pg_catalog.!~) '^pgwraith_[0-9]+$'",
        uses("pg_publication_rel", "r.oid")
    )
}
