//! The statements as text: what they lock, quote and compare can be read here.

use super::chunk::Kind;
use super::sql::Bounds;
use super::{Captured, Flow, Target};
use crate::change::{KeyColumn, Projected};
use crate::pg::QualifiedName;

fn key(source: &str, ty: &str, target: &str, target_ty: &str) -> KeyColumn {
    KeyColumn {
        source: source.into(),
        source_type_oid: 23,
        source_type_sql: ty.into(),
        source_collation: None,
        canonical: true,
        target: target.into(),
        target_type_sql: target_ty.into(),
        target_collation: None,
        expression: format!("s.\"{source}\""),
        keeps_order: true,
    }
}

fn filled(column: &str, ty: &str, expression: Option<&str>) -> Projected {
    Projected {
        column: column.into(),
        type_sql: ty.into(),
        canonical: ty != "numeric",
        toasted: ty == "text",
        collation: None,
        expression: expression.map(str::to_owned),
    }
}

fn flow(key: Vec<KeyColumn>) -> Flow {
    let root = QualifiedName::new("s", "t_v2");
    Flow {
        migration: 1,
        number: 1,
        captured: Captured {
            oid: 1,
            name: QualifiedName::new("s", "t"),
            rows: QualifiedName::new("s", "t"),
            keys: QualifiedName::new("s", "t"),
            is_partitioned: false,
        },
        target: Target::ordinary(root, true),
        projection: vec![
            filled("id", "bigint", Some("s.\"id\"")),
            filled("total", "numeric", Some("(s.a * s.b)")),
            filled("made", "text", None),
        ],
        key,
        order: None,
        functions: Vec::new(),
        publication: "p".into(),
        slot: "p".into(),
    }
}

fn single() -> Flow {
    flow(vec![key("id", "integer", "id", "bigint")])
}

fn composite() -> Flow {
    flow(vec![key("a", "integer", "a", "integer"), key("b", "text", "b \"x", "text")])
}

#[test]
fn a_range_is_open_where_it_has_no_bound() {
    let all = |lower, upper| single().copy_range(Bounds { lower, upper });
    assert_eq!(
        all(false, false),
        "INSERT INTO \"s\".\"t_v2\" (\"id\", \"total\") OVERRIDING SYSTEM VALUE \
         SELECT s.\"id\", (s.a * s.b) FROM ONLY \"s\".\"t\" AS s"
    );
    assert!(all(true, false).ends_with(" WHERE s.\"id\" > $1::integer"));
    assert!(all(false, true).ends_with(" WHERE s.\"id\" <= $1::integer"));
    assert!(all(true, true).ends_with(" WHERE s.\"id\" > $1::integer AND s.\"id\" <= $2::integer"));
}

#[test]
fn composite_keys_are_compared_as_rows_by_the_server() {
    let sql = composite().copy_range(Bounds { lower: true, upper: true });
    assert!(
        sql.ends_with(
            "WHERE (s.\"a\", s.\"b\") > ($1::integer, $2::text) \
             AND (s.\"a\", s.\"b\") <= ($3::integer, $4::text)"
        ),
        "{sql}"
    );
    assert_eq!(
        composite()
            .key_in_range(&composite().course(Kind::Copy), Bounds { lower: true, upper: false }),
        "SELECT s.\"a\", s.\"b\" FROM ONLY \"s\".\"t\" AS s WHERE (s.\"a\", s.\"b\") > \
         ($1::integer, $2::text) ORDER BY s.\"a\", s.\"b\" OFFSET $3 LIMIT 1"
    );
}

#[test]
fn a_sync_deletes_by_the_mapped_key_and_writes_only_what_differs() {
    let delete = single().sync_delete();
    assert!(delete.contains("CAST(s.\"id\" AS bigint) AS k1"), "{delete}");
    assert!(
        delete
            .contains("NOT EXISTS (SELECT 1 FROM ONLY \"s\".\"t\" AS c WHERE c.\"id\" = s.\"id\")")
    );
    assert!(delete.ends_with("WHERE t.\"id\" = g.k1"));
    let upsert = single().sync_upsert();
    assert!(upsert.contains("ON CONFLICT (\"id\") DO UPDATE SET \"id\" = EXCLUDED.\"id\""));
    assert!(upsert.ends_with(
        "WHERE ROW(t.\"id\", t.\"total\")::record OPERATOR(pg_catalog.*<>) \
         ROW(EXCLUDED.\"id\", EXCLUDED.\"total\")::record"
    ));
    let note = filled("note", "text", Some("s.note"));
    let upsert = Flow { projection: vec![note], ..single() }.sync_upsert();
    assert!(
        upsert.contains(
            "SET \"note\" = CASE WHEN ROW(t.\"note\")::record OPERATOR(pg_catalog.*=) ROW(EXCLUDED.\"note\")::record \
             THEN t.\"note\" ELSE EXCLUDED.\"note\" END WHERE"
        ),
        "{upsert}"
    );
    assert!(composite().delete_keys().ends_with("WHERE (t.\"a\", t.\"b \"\"x\") = (g.k1, g.k2)"));
}

#[test]
fn without_a_unique_key_what_differs_is_deleted_and_what_is_missing_inserted() {
    let delete = single().delete_stale();
    assert!(
        delete.contains("SELECT s.\"id\" AS s0, CAST(s.\"id\" AS bigint) AS k1 FROM k AS s"),
        "{delete}"
    );
    assert!(delete.ends_with(
        "WHERE t.\"id\" = g.k1 AND NOT EXISTS (SELECT 1 FROM ONLY \"s\".\"t\" AS s WHERE s.\"id\" = g.s0 \
         AND ROW(CAST(s.\"id\" AS bigint), CAST((s.a * s.b) AS numeric))::record OPERATOR(pg_catalog.*=) \
         ROW(t.\"id\", t.\"total\")::record)"
    ), "{delete}");
    let insert = composite().insert_missing();
    assert!(
        insert.ends_with(
            "WHERE NOT EXISTS (SELECT 1 FROM \"s\".\"t_v2\" AS o WHERE (o.\"a\", o.\"b \"\"x\") = \
         (CAST(s.\"a\" AS integer), CAST(s.\"b\" AS text)))"
        ),
        "{insert}"
    );
}

#[test]
fn a_checksum_hashes_twice_and_sends_what_equality_does_not_tell_apart() {
    let sql = single().checksums(Bounds { lower: true, upper: false }, true);
    // Summed as they are, linear hashes would not notice two rows that exchange a value.
    assert!(sql.contains(
        "hash_record_extended(ROW(pg_catalog.int8send(pg_catalog.hash_record_extended(\
         ROW(CAST(s.\"id\" AS bigint), pg_catalog.record_send(ROW(CAST((s.a * s.b) AS numeric)))), 0))), 0)"
    ), "{sql}");
    assert!(sql.contains("s.\"id\" > $2::integer"), "the key set comes first: {sql}");
    assert!(sql.contains("t.\"id\" > CAST($2::integer AS bigint)"), "{sql}");
    assert!(!sql.contains("made"), "the server generates it on both sides");
}
