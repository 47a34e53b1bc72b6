//! What plain offline SQL makes of the twin, `twin.t`, and whether `ours.t` is the same.

use crate::partitions::same;
use crate::scene::Shop;
use crate::twins;

/// What makes of the twin what a change makes of the table.
pub(super) enum Twin {
    /// These statements.
    Altered(String),
    /// The same rows in a new table with the same columns, of which these come first, with this key, divided so.
    Anew { first: Vec<String>, key: Vec<String>, by: Option<String> },
    /// The same rows, of these columns, in what a file makes.
    ByFile { file: String, columns: String },
}

/// Their names, of those below the table, by the schema it is in.
const PARTITIONS: &str = "SELECT c.oid, c.relname, c.relpartbound FROM pg_partition_tree(to_regclass('{s}.t')) p \
                          JOIN pg_class c ON c.oid = p.relid WHERE p.level > 0";

impl Twin {
    /// After the swap: the bounds and names of partitions are those that the run derived.
    pub(super) async fn make(&self, shop: &Shop) {
        match self {
            Twin::Altered(sql) => shop.exec(sql).await,
            Twin::Anew { first, key, by } => {
                anew(shop, first, &key.join(", "), by.as_deref()).await;
            }
            Twin::ByFile { file, columns } => {
                shop.exec("ALTER SCHEMA twin RENAME TO aside; CREATE SCHEMA twin").await;
                shop.exec(&file.replace("{shadow}", "twin.t")).await;
                let rows = format!("INSERT INTO twin.t ({columns}) SELECT {columns} FROM aside.t");
                shop.exec(&format!("{rows}; DROP SCHEMA aside CASCADE")).await;
            }
        }
        called_alike(shop).await;
    }
}

async fn anew(shop: &Shop, first: &[String], key: &str, by: Option<&str>) {
    let divided = by.map(|by| format!(" PARTITION BY {by}")).unwrap_or_default();
    shop.exec("ALTER SCHEMA twin RENAME TO aside; CREATE SCHEMA twin").await;
    let columns = format!(
        "SELECT concat_ws(', ', string_agg(format('%I %s%s%s', attname, format_type(atttypid, atttypmod),
             ' DEFAULT ' || pg_get_expr(adbin, adrelid), CASE WHEN attnotnull THEN
               concat((SELECT format(' CONSTRAINT %I', conname) FROM pg_constraint n
                 WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]), ' NOT NULL') END), ', '
             ORDER BY array_position('{{{}}}', attname::text), attnum),
           (SELECT string_agg(format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ', ' ORDER BY oid)
            FROM pg_constraint WHERE conrelid = 'aside.t'::regclass AND contype = 'c'))
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = 'aside.t'::regclass AND a.attnum > 0 AND NOT attisdropped",
        first.join(",")
    );
    let columns: String = shop.value(&columns).await;
    shop.exec(&format!("CREATE TABLE twin.t ({columns}){divided}")).await;
    if by.is_some() {
        let partitions = format!(
            "SELECT string_agg(format('CREATE TABLE twin.%I PARTITION OF twin.t %s', relname, pg_get_expr(relpartbound, oid)), '; ' ORDER BY oid)
             FROM ({}) p",
            PARTITIONS.replace("{s}", "ours")
        );
        shop.exec(&shop.value::<String>(&partitions).await).await;
    }
    let indexes = "SELECT coalesce(string_agg(regexp_replace(pg_get_indexdef(indexrelid), ' ON (ONLY )?aside.t ', ' ON twin.t '), '; '
                     ORDER BY indexrelid), '') FROM pg_index WHERE indrelid = 'aside.t'::regclass AND NOT indisprimary";
    let indexes: String = shop.value(indexes).await;
    let names = "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute \
                 WHERE attrelid = 'twin.t'::regclass AND attnum > 0";
    let names: String = shop.value(names).await;
    shop.exec(&format!(
        "INSERT INTO twin.t ({names}) SELECT {names} FROM aside.t; ALTER TABLE twin.t ADD CONSTRAINT pk PRIMARY KEY ({key}); {indexes};
         DROP SCHEMA aside CASCADE"
    ))
    .await;
}

/// PostgreSQL calls the indexes of partitions by the names that columns had when they were made. Those of ours are called as
/// those of the table.
async fn called_alike(shop: &Shop) {
    let parts =
        "SELECT c.oid, c.relname, t.relname AS belongs, p.relname AS part_of FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
        JOIN pg_class p ON p.oid = pg_partition_root(c.oid)
        WHERE c.relispartition AND c.relnamespace = '{s}'::regnamespace";
    let (twin, ours) = (parts.replace("{s}", "twin"), parts.replace("{s}", "ours"));
    shop.exec(&format!(
        "DO $$ DECLARE r record; BEGIN
           FOR r IN SELECT oid, relname FROM ({twin}) x LOOP
             EXECUTE format('ALTER INDEX twin.%I RENAME TO %I', r.relname, 'x' || r.oid);
           END LOOP;
           FOR r IN SELECT x.relname AS was, y.relname AS becomes FROM ({twin}) x JOIN ({ours}) y USING (belongs, part_of) LOOP
             EXECUTE format('ALTER INDEX twin.%I RENAME TO %I', r.was, r.becomes);
           END LOOP; END $$"
    ))
    .await;
}

/// The partitions that hold rows.
pub(super) async fn leaves(shop: &Shop) -> Vec<String> {
    let leaves = "SELECT coalesce(array_agg(quote_ident(c.relname) ORDER BY c.relname), '{}') \
                  FROM pg_partition_tree(to_regclass('ours.t')) p JOIN pg_class c ON c.oid = p.relid \
                  WHERE p.level > 0 AND p.isleaf";
    shop.value(leaves).await
}

/// Definition and rows are the same, of partitions too.
pub(super) async fn same(shop: &Shop, what: &str) {
    if leaves(shop).await.is_empty() {
        twins::same(shop, what).await;
    } else {
        same::same_partitions(shop, "t", what).await;
        same::same_rows(shop, "t", what).await;
    }
}
