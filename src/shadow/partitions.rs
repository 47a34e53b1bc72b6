//! The parts of a partitioned table: what the root has, what each partition has, and how an index of the root
//! is put together from theirs.

use std::collections::HashSet;

use super::create::{Purpose, render};
use crate::catalog::{Constraint, Index, Table};
use crate::pg::name::free_name;
use crate::pg::{QualifiedName, quote_ident, quote_literal};

/// `table`, which is an ordinary one, as the root of a partitioned one: what belongs to files is the
/// partitions' matter.
pub fn as_root(table: &Table) -> Table {
    let mut root = table.clone();
    root.kind = 'p';
    root.access_method = None;
    root.options.clear();
    root.toast_options.clear();
    for index in &mut root.indexes {
        index.clustered = false;
    }
    root
}

/// CREATE TABLE of the root, with no partition yet; `by` is what follows PARTITION BY.
pub fn create_root(target: &Table, name: &QualifiedName, by: &str) -> String {
    created(target, name, by, Purpose::Shadow)
}

/// The same as a faithful copy, to try a change on.
pub fn clone_root(target: &Table, name: &QualifiedName, by: &str) -> String {
    created(target, name, by, Purpose::Clone)
}

fn created(target: &Table, name: &QualifiedName, by: &str, purpose: Purpose) -> String {
    let bare = Table { access_method: None, tablespace: None, ..target.clone() };
    let mut sql = render(&bare, name, purpose);
    sql.push_str(&format!(" PARTITION BY {by}"));
    // Partitions are made where it says.
    if let Some(tablespace) = &target.tablespace {
        sql.push_str(&format!(" TABLESPACE {}", quote_ident(tablespace)));
    }
    sql
}

/// CREATE TABLE of a partition.
pub fn create_partition(root: &QualifiedName, name: &QualifiedName, bound: &str) -> String {
    format!("CREATE TABLE {name} PARTITION OF {root} {bound}")
}

/// Makes a table like its others a partition.
pub fn attach_partition(root: &QualifiedName, name: &QualifiedName, bound: &str) -> String {
    format!("ALTER TABLE {root} ATTACH PARTITION {name} {bound}")
}

/// What each of the partitions is to be, one of `leaves` each: like `like`, with indexes of its own names.
/// Those are the ones PostgreSQL would give where the table's are (`orders_p1_pkey` of `orders_pkey`), and final.
pub fn partitions(like: &Table, leaves: &[QualifiedName]) -> Vec<Table> {
    let mut used: HashSet<String> = leaves.iter().map(|leaf| leaf.name.clone()).collect();
    let table = format!("{}_", like.name);
    let mut of_leaf = |leaf: &QualifiedName| {
        let mut out = like.clone();
        for index in &mut out.indexes {
            let end = index.name.strip_prefix(&table).unwrap_or(&index.name);
            let whole = format!("{}_{end}", leaf.name);
            let name = free_name(&whole, "", |name| used.contains(name));
            used.insert(name.clone());
            let over = |c: &&mut Constraint| c.index_oid == index.oid;
            out.constraints.iter_mut().filter(over).for_each(|c| c.name.clone_from(&name));
            index.name = name;
            index.comment = None;
        }
        (out.schema, out.name) = (leaf.schema.clone(), leaf.name.clone());
        (out.comment, out.type_comment, out.grants) = (None, None, None);
        out.columns.iter_mut().for_each(|c| (c.comment, c.grants) = (None, None));
        out.constraints.iter_mut().for_each(|c| c.comment = None);
        // Where they are about the whole.
        out.system_columns.clear();
        out.statistics.clear();
        out.foreign_keys.clear();
        out
    };
    leaves.iter().map(&mut of_leaf).collect()
}

/// A partition that gets its name, and those of its indexes, after the swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    pub from: QualifiedName,
    pub to: QualifiedName,
    /// Each with its name until then.
    pub indexes: Vec<(String, String)>,
}

/// Those of `leaves` that are called otherwise `in_the_end`.
pub fn renamed(
    like: &Table,
    leaves: &[QualifiedName],
    in_the_end: &[QualifiedName],
) -> Vec<Renamed> {
    let kept = Table {
        indexes: like.indexes.iter().filter(|i| !i.until_swap).cloned().collect(),
        ..like.clone()
    };
    let names = |table: Table| table.indexes.into_iter().map(|i| i.name);
    let indexes = |from: &Table, to: &Table| -> Vec<(String, String)> {
        let pairs = names(from.clone()).zip(names(to.clone()));
        pairs.filter(|(from, to)| from != to).collect()
    };
    let (from, to) = (partitions(&kept, leaves), partitions(&kept, in_the_end));
    let pairs = from.iter().zip(&to).filter(|(from, to)| from.name != to.name);
    pairs
        .map(|(from, to)| Renamed {
            from: from.qualified(),
            to: to.qualified(),
            indexes: indexes(from, to),
        })
        .collect()
}

/// The index of the root, to which those of the partitions are attached: valid once all of them are. `name` is
/// what it is called until the swap.
pub fn create_root_index(
    target: &Table,
    index: &Index,
    root: &QualifiedName,
    name: &str,
) -> Vec<String> {
    root_index(target, index, "ONLY ", root, name)
}

/// The same with indexes on all partitions.
pub fn create_whole_index(
    target: &Table,
    index: &Index,
    root: &QualifiedName,
    name: &str,
) -> Vec<String> {
    root_index(target, index, "", root, name)
}

fn root_index(
    target: &Table,
    index: &Index,
    only: &str,
    root: &QualifiedName,
    name: &str,
) -> Vec<String> {
    let name = quote_ident(name);
    let create = match target.constraint_of(index) {
        // USING INDEX is not for a partitioned table.
        Some(c) => {
            format!("ALTER TABLE {only}{root} ADD CONSTRAINT {name} {}", with_options(c, index))
        }
        None => {
            let unique = if index.unique { "UNIQUE " } else { "" };
            format!("CREATE {unique}INDEX {name} ON {only}{root} {}", index.definition)
        }
    };
    let set = |to: &str| format!("SET LOCAL default_tablespace = {}", quote_literal(to));
    match &index.tablespace {
        Some(tablespace) => vec![set(tablespace), create, set("")],
        None => vec![create],
    }
}

/// A constraint's definition says nothing of its index's storage parameters, which can be given to a partitioned
/// index only as it is made.
fn with_options(constraint: &Constraint, index: &Index) -> String {
    if index.options.is_empty() {
        return constraint.definition.clone();
    }
    let ends = [" DEFERRABLE INITIALLY DEFERRED", " DEFERRABLE"];
    let end = ends.into_iter().find(|end| constraint.definition.ends_with(end)).unwrap_or("");
    let body = constraint.definition.strip_suffix(end).unwrap_or(&constraint.definition);
    let options: Vec<String> = index
        .options
        .iter()
        .map(|option| {
            let (name, value) = option.split_once('=').unwrap_or((option, "true"));
            format!("{} = {}", quote_ident(name), quote_literal(value))
        })
        .collect();
    format!("{body} WITH ({}){end}", options.join(", "))
}

/// Makes the index of a partition a part of the root's.
pub fn attach_index(root_index: &QualifiedName, of_leaf: &QualifiedName) -> String {
    format!("ALTER INDEX {root_index} ATTACH PARTITION {of_leaf}")
}
