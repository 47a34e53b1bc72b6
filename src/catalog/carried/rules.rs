//! Rules of the table, with their states and comments.

use super::{comment, state};

pub(super) fn sql() -> String {
    format!(
        "SELECT 'rule' AS kind, w.rulename::pg_catalog.text AS name, t.owner::pg_catalog.text AS role,
           ARRAY[pg_catalog.format('DROP RULE %I ON %s', w.rulename, t.tname)] AS unbind,
           pg_catalog.array_remove(ARRAY[pg_catalog.pg_get_ruledef(w.oid), {}, {}], NULL) AS bind
         FROM pg_catalog.pg_rewrite w, t WHERE w.ev_class = t.toid",
        state("RULE", "w.rulename", "w.ev_enabled"),
        comment("RULE", "w.rulename", "pg_rewrite", "w.oid"),
    )
}
