//! What an attempt locks, in one order for every migration.
//!
//! Whoever reads a view holds the view and waits for the table; whoever inserts into a table with a
//! foreign key holds that table and waits for the one it refers to. We take locks in the direction in
//! which the application does: the views and referring tables first, then the source, then what it
//! refers to. Where that is not enough the shrinking limit decides: we yield, never the application.

use std::collections::HashSet;

use crate::catalog::{Carried, Partner, Sequence, Table};
use crate::pg::{QualifiedName, quote_ident};

/// What an attempt locks in ACCESS EXCLUSIVE mode.
pub(super) struct Locks {
    /// Statements that each take one lock, in order.
    pub(super) statements: Vec<String>,
    /// The same for the sequences of identity columns, which the swap locks by renaming them. An INSERT
    /// takes the table before its sequence, a transaction that calls nextval itself first the other way
    /// round: every other attempt begins with them.
    pub(super) sequences: Vec<String>,
    /// The relations besides source and shadow.
    pub(super) relations: Vec<u32>,
}

/// The locks of a swap.
pub(super) fn locks(
    shadow: &QualifiedName,
    source: &Table,
    target: &Table,
    carried: &[Carried],
) -> Locks {
    let keys = || source.foreign_keys.iter().chain(&target.foreign_keys);
    let hanging = carried.iter().filter_map(|c| c.relation.as_ref());
    let mut before: Vec<&Partner> = hanging.chain(keys().map(|k| &k.from)).collect();
    let mut after: Vec<&Partner> = keys().map(|k| &k.to).collect();
    let mut seen = HashSet::from([source.oid]);
    // A view can only be made over what was there before it.
    before.sort_by_key(|p| (p.kind != 'v', if p.kind == 'v' { u32::MAX - p.oid } else { p.oid }));
    before.retain(|p| seen.insert(p.oid));
    after.sort_by_key(|p| p.oid);
    after.retain(|p| seen.insert(p.oid));
    // With its partitions, where it has some: triggers and foreign keys are put on them too.
    let mut out = vec![format!("LOCK TABLE {shadow} IN ACCESS EXCLUSIVE MODE")];
    out.extend(before.iter().map(|p| of(p)));
    // So is the source, whose partitions may be written to by their own names.
    out.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", source.scanned()));
    out.extend(own(source));
    out.extend(after.iter().map(|p| of(p)));
    let identities = source.sequences.iter().filter(|s| s.identity);
    let relations = before.iter().chain(&after).map(|p| p.oid);
    let relations = relations.chain(source.indexes.iter().map(|index| index.oid));
    let relations = relations.chain(source.parts.iter().map(|part| part.oid));
    Locks {
        statements: out,
        relations: relations.chain(identities.clone().map(|s| s.oid)).collect(),
        sequences: identities.map(|s| sequence(source, s)).collect(),
    }
}

/// Its indexes and statistics, which the swap renames: a comment on one, or an option of its, is given under
/// a lock on that alone. There is no LOCK for them either; one that has its owner keeps it.
fn own(source: &Table) -> impl Iterator<Item = String> {
    // Nothing locks the index of a partitioned table alone and changes nothing. Its rename does, and afterwards it is
    // asked whether anything was committed in between.
    let indexes = source.indexes.iter().filter(|_| !source.is_partitioned());
    let indexes = indexes.map(|index| {
        let name = QualifiedName::new(&source.schema, &index.name);
        by_owner("TABLE", &name, &source.owner)
    });
    let statistics = source.statistics.iter();
    indexes.chain(statistics.map(|s| by_owner("STATISTICS", &s.qualified(), &s.owner)))
}

fn table(name: &QualifiedName) -> String {
    format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE")
}

/// There is no LOCK for a sequence or a foreign table, and for a view it would lock whatever is below the view too, in the
/// view's order. Giving one to the owner it has locks it alone, and changes nothing.
fn by_owner(kind: &str, name: &QualifiedName, owner: &str) -> String {
    format!("ALTER {kind} {name} OWNER TO {}", quote_ident(owner))
}

fn sequence(source: &Table, sequence: &Sequence) -> String {
    let name = QualifiedName::new(&sequence.schema, &sequence.name);
    by_owner("SEQUENCE", &name, &source.owner)
}

fn of(partner: &Partner) -> String {
    let name = partner.qualified();
    match partner.kind {
        'v' => by_owner("VIEW", &name, &partner.owner),
        'f' => by_owner("FOREIGN TABLE", &name, &partner.owner),
        // With its partitions.
        'p' => format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"),
        _ => table(&name),
    }
}
