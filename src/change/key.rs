//! The key's columns: where each goes, and whether rows can be followed by it.

use super::clone::Clone;
use super::{KeyColumn, Projected, distinct, expression};
use crate::catalog::{self, Column, Index, Table};
use crate::error::{Error, Kind, Result};
use crate::pg::name::free_name;
use crate::pg::{Session, quote_ident};
use crate::shadow;

/// The columns of a table's key, where its rows stay what they are. Says why rows cannot be looked up by it.
pub fn own(table: &Table) -> std::result::Result<Vec<KeyColumn>, String> {
    let key = table.key()?;
    let column = |column: &&Column| {
        if column.operator_schema != "pg_catalog" {
            return Err(format!(
                "its key column {:?} has the type {}, whose comparison is not PostgreSQL's own",
                column.name, column.type_sql
            ));
        }
        Ok(KeyColumn {
            source: column.name.clone(),
            source_type_oid: column.type_oid,
            source_type_sql: column.base_type_sql.clone(),
            source_collation: column.collation.clone(),
            canonical: is_canonical(column),
            target: column.name.clone(),
            target_type_sql: column.type_sql.clone(),
            target_collation: None,
            expression: expression::column(&column.name),
            keeps_order: true,
        })
    };
    key.columns.iter().map(column).collect()
}

/// The key's columns in key order. `reads` are the source's columns that each expression of the
/// projection reads.
pub(super) fn mapping(
    source: &Table,
    target: &Table,
    projection: &[Projected],
    reads: &[Vec<i16>],
) -> Result<Vec<KeyColumn>> {
    let key =
        source.key().map_err(|why| Error::new(Kind::Refused, format!("no usable key: {why}")))?;
    let key_attnums: Vec<i16> = key.columns.iter().map(|c| c.attnum).collect();
    let mut mapped = Vec::new();
    for column in &key.columns {
        if column.operator_schema != "pg_catalog" {
            // By their plain names, other operators would be found (those of text, for citext),
            // which order and compare in another way than the index.
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "key column {:?} has the type {}, whose comparison is not PostgreSQL's own",
                    column.name, column.type_sql
                ),
            )
            .next("Give the table a replica identity on a unique index over other columns"));
        }
        let position = source.position(column.attnum);
        let found = target.columns.iter().position(|c| Some(c.attnum) == position);
        let at = found.ok_or_else(|| {
            Error::usage(format!("the change drops key column {:?}", column.name)).next(
                "Rows are followed by their key. First add the new key, swap, then drop the old column",
            )
        })?;
        if reads[at].iter().any(|n| !key_attnums.contains(n)) {
            return Err(Error::usage(format!(
                "the new value of key column {:?} depends on columns outside the key",
                column.name
            ))
            .next("A deleted row is known only by its key, so its new key must follow from that"));
        }
        let (to, fill) = (&target.columns[at], &projection[at]);
        if fill.expression.is_none() && column.generated.is_empty() {
            let what = format!("key column {:?} would be computed in the new table", column.name);
            return Err(Error::usage(what).next(
                "A deleted row is known only by its key: keep the column, and compute another",
            ));
        }
        let expression =
            fill.expression.clone().unwrap_or_else(|| expression::column(&column.name));
        if !distinct::tells_apart(column, to, &expression) {
            return Err(Error::usage(format!(
                "the new value of key column {:?} may be the same for two keys, or not for one that is written in two ways: {} becomes {} by {expression}",
                column.name, column.type_sql, to.type_sql
            ))
            .next(
                "Rows are followed by their key, and a row that is gone is known by that alone: keep the column as it is, put the new \
                 value into another one (ADD COLUMN, --map) that becomes the key (DROP CONSTRAINT, ADD PRIMARY KEY), and drop the old \
                 column after the swap",
            ));
        }
        let plain = expression == expression::column(&column.name);
        mapped.push(KeyColumn {
            source: column.name.clone(),
            source_type_oid: column.type_oid,
            source_type_sql: column.base_type_sql.clone(),
            source_collation: column.collation.clone(),
            canonical: is_canonical(column),
            target: to.name.clone(),
            target_type_sql: to.type_sql.clone(),
            target_collation: to.collated.clone().filter(|_| to.collated != column.collated),
            expression,
            keeps_order: plain && keeps_order(column, to),
        });
    }
    Ok(mapped)
}

/// Gives the target an index to write by where it has no unique one on exactly the key, since its primary key
/// is another: without it an upsert would leave two rows. It can be unique, and so serve `ON CONFLICT`: each row
/// of the source becomes one row, and no two have the same key. (Of a partitioned table it cannot, unless rows are
/// divided by the key alone; there any index that begins with the key's columns does.) `clone` is the future table in
/// the rehearsal.
pub(super) async fn index_it(
    session: &Session,
    clone: &Clone,
    target: &mut Table,
    key: &[KeyColumn],
) -> Result<()> {
    let columns: Vec<&str> = key.iter().map(|k| k.target.as_str()).collect();
    let partitioned = target.kind == 'p';
    let there = match partitioned {
        true => shadow::lookup_index(target, &columns),
        false => shadow::key_index(target, &columns),
    };
    if there.is_some() {
        return Ok(());
    }
    let name = free_name(&target.name, "_pgwraith_key", |name| {
        target.indexes.iter().any(|index| index.name == name)
    });
    let quoted: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
    let (index, table, columns) = (quote_ident(&name), &clone.name, quoted.join(", "));
    let unique = if partitioned { "" } else { "UNIQUE " };
    session.batch(&format!("CREATE {unique}INDEX {index} ON {table} ({columns})")).await?;
    let made = catalog::read(session, clone.oid).await?;
    let made = made.and_then(|t| t.indexes.into_iter().find(|index| index.name == name));
    let made = made.ok_or_else(|| Error::failed("the key's index on the clone vanished"))?;
    // A clone that was made anew numbers its columns otherwise than the target does.
    let number = |k: &KeyColumn| target.column_named(&k.target).map(|column| column.attnum);
    let attnums = key.iter().filter_map(number).collect();
    target.indexes.push(Index { until_swap: true, attnums, ..made });
    Ok(())
}

/// Whether two equal values of it always have the same bytes.
pub(super) fn is_canonical(column: &Column) -> bool {
    const CANONICAL: &[&str] = &[
        "int2",
        "int4",
        "int8",
        "oid",
        "uuid",
        "text",
        "varchar",
        "name",
        "bytea",
        "date",
        "timestamp",
        "timestamptz",
        "time",
        "bool",
        "macaddr",
        "macaddr8",
        "pg_lsn",
        "char",
    ];
    column.collation_deterministic
        && (column.type_kind == 'e'
            || column.type_schema == "pg_catalog" && CANONICAL.contains(&column.type_name.as_str()))
}

/// Whether a plain conversion from one column to the other keeps the order of values.
fn keeps_order(from: &Column, to: &Column) -> bool {
    const NUMBERS: &[&str] = &["int2", "int4", "int8", "numeric"];
    const TEXTS: &[&str] = &["text", "varchar"];
    let both = |family: &[&str]| {
        from.type_schema == "pg_catalog"
            && to.type_schema == "pg_catalog"
            && family.contains(&from.type_name.as_str())
            && family.contains(&to.type_name.as_str())
    };
    from.type_oid == to.type_oid && from.collation == to.collation
        || both(NUMBERS)
        || both(TEXTS) && from.collation == to.collation
}
