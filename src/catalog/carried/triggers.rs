//! Triggers of the table, constraint triggers too, with their states and comments. Those of
//! constraints belong to the constraints.

use super::{comment, state, uses};

pub(super) fn sql() -> String {
    format!(
        "SELECT 'trigger' AS kind, 'pg_trigger' AS class, g.oid::int8 AS oid, g.tgname::pg_catalog.text AS name, t.owner AS role,
           ARRAY[pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, t.tname)] AS unbind,
           pg_catalog.array_remove(ARRAY[pg_catalog.pg_get_triggerdef(g.oid), {}, {},
             {}], NULL) AS bind, {}
         FROM pg_catalog.pg_trigger g, t WHERE g.tgrelid = t.toid AND NOT g.tgisinternal",
        state("TRIGGER", "g.tgname", "g.tgenabled"),
        comment("TRIGGER", "g.tgname", "pg_trigger", "g.oid"),
        comment("CONSTRAINT", "g.tgname", "pg_constraint", "g.tgconstraint"),
        uses("pg_trigger", "g.oid"),
    )
}
