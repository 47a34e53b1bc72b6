//! Views over the table.
//!
//! CREATE OR REPLACE VIEW keeps the view's owner, privileges, comments, triggers, rules, defaults, and
//! whatever depends on it; options it does not say are lost, so it says them. (Replacing the rule behind
//! the view would do with less, but since 16 leaves another query tree than CREATE VIEW does.) Views over
//! views mean the view, which stays what it is. A materialized view holds rows besides and is refused.

use super::relation;

/// Replaced by the owner; where he may not create in the schema any more, by the tool, which leaves the
/// owner what he is.
pub(super) fn sql() -> String {
    format!(
        "SELECT 'view' AS kind, 'pg_rewrite' AS class, w.oid::int8 AS oid, v.oid::pg_catalog.regclass::pg_catalog.text AS name, r.rolname::pg_catalog.text AS owner,
           CASE WHEN pg_catalog.has_schema_privilege(v.relowner, v.relnamespace, 'CREATE') THEN r.rolname::pg_catalog.text END AS role,
           '{{}}'::pg_catalog.text[] AS unbind,
           ARRAY[pg_catalog.format('CREATE OR REPLACE VIEW %I.%I%s%s AS %s', n.nspname, v.relname,
             (SELECT ' (' || pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
               FROM pg_catalog.pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0),
             (SELECT ' WITH (' || pg_catalog.string_agg(pg_catalog.format('%I = %L', o.option_name, o.option_value), ', ' ORDER BY o.n) || ')'
               FROM ROWS FROM (pg_catalog.pg_options_to_table(v.reloptions)) WITH ORDINALITY o (option_name, option_value, n)),
             pg_catalog.rtrim(pg_catalog.pg_get_viewdef(v.oid), ';'))] AS bind,
           {} AS relation, n.nspname::pg_catalog.text AS schema, d.uses, d.calls
         FROM d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
         JOIN pg_catalog.pg_roles r ON r.oid = v.relowner
         JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace, t
         WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND v.relkind = 'v' AND w.ev_type = '1'
           AND n.nspname <> 'pgwraith'",
        relation("v.oid")
    )
}
