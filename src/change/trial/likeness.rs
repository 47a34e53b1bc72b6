//! Whether two ways of altering a table come to the same: pure.

use crate::catalog::Table;

/// What an ALTER TABLE makes of a table, but for what differs with each making.
pub(super) fn likeness(table: &Table) -> Vec<String> {
    let columns = table.columns.iter().map(|c| {
        let shape = (c.attnum, &c.name, &c.type_sql, &c.collation, c.not_null, &c.default);
        let kept = (&c.generated, &c.identity, c.storage, &c.compression, &c.options);
        format!("{shape:?} {kept:?}")
    });
    let constraints = table.constraints.iter().map(|c| {
        let is = (&c.name, c.kind, &c.definition, c.validated, c.deferrable, c.deferred);
        format!("{is:?} {:?}", (c.no_inherit, &c.attnums))
    });
    let indexes = table.indexes.iter().map(|i| {
        let is = (&i.name, &i.definition, i.unique, i.primary, i.exclusion, i.immediate);
        format!("{is:?} {:?}", (i.valid, i.replica_identity, &i.tablespace, &i.options))
    });
    let keys = table.foreign_keys.iter().map(|k| {
        let is = (&k.name, &k.definition, k.validated);
        format!("{is:?} {} {}", k.from.qualified(), k.to.qualified())
    });
    let table = (table.persistence, &table.tablespace, &table.options, table.replica_identity);
    let mut all: Vec<String> = columns.chain(constraints).chain(indexes).chain(keys).collect();
    all.push(format!("{table:?}"));
    all.sort();
    all
}
