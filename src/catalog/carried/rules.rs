//! Rules: those of the table, with their states and comments; and those of others that mention it. A
//! view's query is a rule too, but has a statement of its own ([`super::views`]).

use super::{by_owner, comment, relation, state, uses};

pub(super) fn own() -> String {
    format!(
        "SELECT 'rule' AS kind, 'pg_rewrite' AS class, w.oid::int8 AS oid, w.rulename::pg_catalog.text AS name, t.owner AS role,
           ARRAY[pg_catalog.format('DROP RULE %I ON %s', w.rulename, t.tname)] AS unbind,
           pg_catalog.array_remove(ARRAY[pg_catalog.pg_get_ruledef(w.oid), {}, {}], NULL) AS bind, {}
         FROM pg_catalog.pg_rewrite w, t WHERE w.ev_class = t.toid",
        state("RULE", "w.rulename", "w.ev_enabled"),
        comment("RULE", "w.rulename", "pg_rewrite", "w.oid"),
        uses("pg_rewrite", "w.oid"),
    )
}

/// Replacing a rule by itself needs only its relation's ownership and keeps its state.
pub(super) fn of_others() -> String {
    format!(
        "SELECT 'rule' AS kind, 'pg_rewrite' AS class, w.oid::int8 AS oid, pg_catalog.format('%I on %s', w.rulename, v.oid::pg_catalog.regclass) AS name,
           {}, '{{}}'::pg_catalog.text[] AS unbind,
           ARRAY['CREATE OR REPLACE RULE ' || pg_catalog.substr(pg_catalog.pg_get_ruledef(w.oid), \
             pg_catalog.length('CREATE RULE ') + 1)] AS bind,
           {} AS relation, d.uses, d.calls
         FROM d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
         JOIN pg_catalog.pg_roles r ON r.oid = v.relowner, t
         WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND v.oid <> t.toid AND w.ev_type <> '1'",
        by_owner("v"),
        relation("v.oid")
    )
}
