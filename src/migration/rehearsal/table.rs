//! What the catalogs and the statistics say of a table and the server, as far as a forecast needs it.

use crate::catalog::{self, Table};
use crate::error::Result;
use crate::flow::Flow;
use crate::flow::chunk::Kind;
use crate::pg::{Session, quote_ident};

/// So many pages are looked into where nothing else says how many rows there are.
const COUNTED_PAGES: f64 = 2000.0;
/// Less than this between the key's order and the table's: neighbours by key are anywhere.
const IN_ORDER: f64 = 0.5;

/// Rows as they are now: what VACUUM counted, grown as the table has since; without that, the
/// rows in some pages.
pub(in crate::migration) async fn rows(session: &Session, source: &Table) -> Result<f64> {
    // Of a partition that was never counted, as of one that has no rows, nothing is known where others were.
    let sql = "SELECT COALESCE(pg_catalog.sum(GREATEST(c.reltuples, 0)), 0)::pg_catalog.float8, \
               COALESCE(pg_catalog.sum(c.relpages) FILTER (WHERE c.reltuples > 0), 0)::pg_catalog.float8, \
               COALESCE(pg_catalog.sum(pg_catalog.pg_relation_size(c.oid)), 0)::pg_catalog.int8 / \
               pg_catalog.current_setting('block_size')::pg_catalog.int8 FROM pg_catalog.pg_class c \
               WHERE c.oid = ANY ($1) AND c.relkind = 'r'";
    let relations = catalog::tree(session, source.oid).await?;
    let row = session.one(sql, &[&relations]).await?;
    let (counted, then, pages): (f64, f64, i64) = (row.get(0), row.get(1), row.get(2));
    if counted > 0.0 && then > 0.0 {
        return Ok(counted / then * pages as f64);
    }
    let percent = (COUNTED_PAGES * 100.0 / pages.max(1) as f64).min(100.0);
    let sql = format!(
        "SELECT pg_catalog.count(*) FROM {} AS s TABLESAMPLE SYSTEM ($1)",
        source.scanned()
    );
    session
        .batch(&format!("BEGIN READ ONLY; SET LOCAL ROLE {}", quote_ident(&source.owner)))
        .await?;
    let counted = session.one(&sql, &[&(percent as f32)]).await;
    session.rollback().await;
    let counted: i64 = counted?.get(0);
    Ok(counted as f64 * 100.0 / percent)
}

/// Bytes of the shadow without its indexes.
pub(super) async fn shadow_bytes(session: &Session, flow: &Flow) -> Result<i64> {
    let root = flow.target.root.to_string();
    let sql = "SELECT pg_catalog.sum(pg_catalog.pg_table_size(s.oid))::pg_catalog.int8 FROM (\
                 SELECT $1::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid AS oid \
                 UNION SELECT p.relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.text::pg_catalog.regclass) p) s";
    Ok(session.one(sql, &[&root]).await?.get(0))
}

/// Rows of the shadow, as VACUUM has just counted them.
pub(super) async fn shadow_rows(session: &Session, flow: &Flow) -> Result<f64> {
    let sql = "SELECT COALESCE(pg_catalog.sum(GREATEST(c.reltuples, 0)), 0)::pg_catalog.float8 FROM pg_catalog.pg_class c \
               WHERE c.oid = ANY ($1::pg_catalog.text[]::pg_catalog.regclass[])";
    let relations: Vec<String> = flow.target.relations().iter().map(ToString::to_string).collect();
    Ok(session.one(sql, &[&relations]).await?.get(0))
}

/// The shadow's indexes as they are now, and the bytes of each.
pub(super) async fn shadow_indexes(session: &Session, flow: &Flow) -> Result<Vec<(String, i64)>> {
    let root = flow.target.root.to_string();
    // The parts of a partitioned index count as it.
    let sql = "SELECT c.relname::pg_catalog.text, pg_catalog.pg_relation_size(c.oid) + \
               COALESCE((SELECT pg_catalog.sum(pg_catalog.pg_relation_size(p.relid)) FROM pg_catalog.pg_partition_tree(c.oid) p \
                 WHERE p.level > 0), 0)::pg_catalog.int8 \
               FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
               WHERE i.indrelid = $1::pg_catalog.text::pg_catalog.regclass ORDER BY 2 DESC";
    let indexes = session.query(sql, &[&root]).await?;
    Ok(indexes.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether rows that are neighbours in the order of the copy are far from each other in a table that memory does not hold: each
/// then costs a page of its own. Says so; None too where the server has no statistics of it.
pub(in crate::migration) async fn out_of_order(
    session: &Session,
    source: &Table,
    flow: &Flow,
) -> Result<Option<String>> {
    let course = flow.course(Kind::Copy);
    let Some(first) = course.columns.first() else { return Ok(None) };
    let sql = "SELECT s.correlation::pg_catalog.float8, (SELECT p.setting::pg_catalog.int8 * \
                 pg_catalog.current_setting('block_size')::pg_catalog.int8 FROM pg_catalog.pg_settings p \
                 WHERE p.name = 'effective_cache_size') FROM pg_catalog.pg_stats s \
               WHERE s.schemaname = $1 AND s.tablename = $2 AND s.attname = $3 AND s.inherited = $4";
    let names: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&source.schema, &source.name, &first.source, &source.is_partitioned()];
    let Some(row) = session.maybe(sql, &names).await? else { return Ok(None) };
    let (correlation, cache): (Option<f64>, i64) = (row.get(0), row.get(1));
    Ok(correlation.and_then(|c| warning(c, source.heap_bytes, cache, &first.source)))
}

fn warning(correlation: f64, bytes: i64, cache: i64, key: &str) -> Option<String> {
    (correlation.abs() < IN_ORDER && bytes > cache).then(|| {
        format!(
            "rows that are neighbours by {key:?} are far from each other on disk (correlation {correlation:.2}), and \
             the table is larger than effective_cache_size: reading it in that order reads many pages again \
             and again"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn disorder_matters_only_where_memory_does_not_hold_the_table() {
        assert!(warning(0.1, 100, 10, "id").is_some_and(|text| text.contains("\"id\"")));
        for (correlation, bytes, cache) in [(0.1, 10, 100), (0.99, 100, 10), (-0.99, 100, 10)] {
            assert_eq!(warning(correlation, bytes, cache, "id"), None);
        }
    }
}
