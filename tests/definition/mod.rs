//! Definitions as text, to be compared: what the catalogs hold, and what pg_dump says; of one table
//! ([`definition`]) or of a whole database ([`database`]).

mod database;
mod mutations;
mod pg_dump;
mod queries;

use crate::scene::Shop;

pub use database::{Database, database, positions};

/// All about the table that `name` means: sorted lines, the same for tables defined the same.
pub async fn definition(shop: &Shop, name: &str) -> Vec<String> {
    let mut lines = catalog_rows(shop, name).await;
    lines.extend(dumped(shop, name));
    lines.sort();
    lines
}

/// Panics where the definitions differ, and shows the lines in which they do.
#[track_caller]
pub fn assert_same(is: &[String], was: &[String], what: &str) {
    let only = |of: &[String], other: &[String]| -> String {
        of.iter().filter(|line| !other.contains(line)).map(|line| format!("\n  {line}")).collect()
    };
    assert!(is == was, "{what}\nis{}\nwas{}", only(is, was), only(was, is));
}

/// The catalogs' rows, without what tells twins apart: object ids, files, statistics, positions.
///
/// Whole rows, so that what a newer version adds to them is compared without being known here.
async fn catalog_rows(shop: &Shop, name: &str) -> Vec<String> {
    let sql = format!(
        "WITH t AS (SELECT c.*, c.oid AS toid FROM pg_class c WHERE c.oid = to_regclass($1)) {}",
        CATALOG_ROWS.join(" UNION ALL ")
    );
    let rows = shop.client.query(&sql, &[&name]).await.unwrap();
    assert!(!rows.is_empty(), "there is no table {name}");
    rows.iter().map(|row| row.get(0)).collect()
}

/// `pg_dump --schema-only` of the table (`name` is a pattern to it), as statements.
fn dumped(shop: &Shop, name: &str) -> Vec<String> {
    let Some(program) = pg_dump::program(shop.cluster.major()) else {
        eprintln!(
            "SKIPPED: PostgreSQL {} has no pg_dump beside it, so {name} is compared by the catalogs alone",
            shop.cluster.major()
        );
        return Vec::new();
    };
    let text = pg_dump::output(&program, &["--table", name, "-d", &shop.dsn]);
    let kept = |l: &&str| !(l.is_empty() || l.starts_with("--") || l.starts_with('\\'));
    let text: Vec<&str> = text.lines().filter(kept).collect();
    text.join("\n").split(";\n").map(str::to_owned).collect()
}

const CATALOG_ROWS: &[&str] = &[
    "SELECT concat_ws(' ', 'table', relname, relnamespace::regnamespace, relowner::regrole, s.spcname,
       (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(relacl, acldefault('r', relowner))::text[]) acl),
       to_jsonb(t) - '{oid,toid,relname,relnamespace,relowner,relacl,reltablespace,relfilenode,reltype,reltoastrelid,relnatts,
         relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhastriggers}'::text[])
     FROM t LEFT JOIN pg_tablespace s ON s.oid = t.reltablespace",
    "SELECT 'toast ' || (x.reloptions)::text FROM t JOIN pg_class x ON x.oid = t.reltoastrelid WHERE x.reloptions IS NOT NULL",
    "SELECT concat_ws(' ', 'column', count(*) OVER (ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
       a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid),
       (SELECT array_agg(acl ORDER BY acl) FROM unnest(a.attacl::text[]) acl),
       to_jsonb(a) - '{attrelid,attname,attnum,atttypid,atttypmod,attcollation,attacl,atthasmissing,attmissingval,attcacheoff}'::text[])
     FROM t JOIN pg_attribute a ON a.attrelid = toid LEFT JOIN pg_attrdef d ON d.adrelid = toid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped",
    "SELECT concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid), k.connamespace::regnamespace, k.conindid::regclass,
       (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY u (attnum, n)
          JOIN pg_attribute a ON a.attrelid = toid AND a.attnum = u.attnum),
       to_jsonb(k) - '{oid,conname,conrelid,confrelid,conindid,connamespace,conkey,conbin}'::text[])
     FROM t JOIN pg_constraint k ON k.conrelid = toid",
    "SELECT concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid), c.relowner::regrole, s.spcname, c.reloptions,
       to_jsonb(i) - '{indexrelid,indrelid,indkey,indexprs,indpred,indcheckxmin}'::text[])
     FROM t JOIN pg_index i ON i.indrelid = toid JOIN pg_class c ON c.oid = i.indexrelid
     LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace",
    "SELECT concat_ws(' ', 'sequence', c.oid::regclass, d.deptype, a.attname, c.relowner::regrole, c.relpersistence,
       (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(c.relacl, acldefault('s', c.relowner))::text[]) acl),
       s.seqtypid::regtype, to_jsonb(s) - '{seqrelid,seqtypid}'::text[])
     FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = toid AND d.classid = 'pg_class'::regclass
     JOIN pg_sequence s ON s.seqrelid = d.objid JOIN pg_class c ON c.oid = s.seqrelid
     JOIN pg_attribute a ON a.attrelid = toid AND a.attnum = d.refobjsubid",
    "SELECT 'trigger ' || pg_get_triggerdef(g.oid) FROM t JOIN pg_trigger g ON g.tgrelid = toid WHERE NOT g.tgisinternal",
];
