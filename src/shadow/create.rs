//! CREATE TABLE from the model.

use crate::catalog::{Column, Constraint, Sequence, Table};
use crate::pg::{QualifiedName, quote_ident, quote_literal};

/// What of the model goes into CREATE TABLE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A faithful copy, to try a change on.
    Clone,
    /// The table that rows are copied into.
    Shadow,
}

/// The shadow: columns, NOT NULL and validated CHECKs, no index and no other constraint. Identity is
/// BY DEFAULT until cutover, so that copied values can be written.
pub fn create_table(target: &Table, name: &QualifiedName) -> String {
    render(target, name, Purpose::Shadow)
}

/// An empty copy of the table with everything the model knows, its indexes and constraints under
/// their own names (so `name` must be in another schema).
pub fn clone_statements(table: &Table, name: &QualifiedName) -> Vec<String> {
    let mut out = vec![render(table, name, Purpose::Clone)];
    for index in super::index_plans(table, name, |own| own.to_owned()) {
        // The definition has no place at its end for TABLESPACE. The clone's indexes must know
        // theirs: the future table is read from the clone.
        let set = |to: &str| format!("SET LOCAL default_tablespace = {}", quote_literal(to));
        let elsewhere = index.index.tablespace.as_deref().map(set);
        out.extend(elsewhere.clone());
        out.push(index.create);
        out.extend(index.attach);
        out.extend(elsewhere.map(|_| set("")));
    }
    out.extend(not_valid_constraints(table, name));
    out.extend(super::replica_identity(table, name, |own| own.to_owned()));
    out
}

/// Adds the CHECKs and NOT NULLs that are NOT VALID or NOT ENFORCED, as such.
pub fn not_valid_constraints(table: &Table, name: &QualifiedName) -> Vec<String> {
    let add = |c: &Constraint| {
        format!("ALTER TABLE {name} ADD CONSTRAINT {} {}", quote_ident(&c.name), c.definition)
    };
    table.constraints.iter().filter(|c| added_later(c)).map(add).collect()
}

/// Rows that were there before need not fulfil it, so that it cannot be part of CREATE TABLE.
pub fn added_later(constraint: &Constraint) -> bool {
    matches!(constraint.kind, 'c' | 'n') && !constraint.validated
}

pub(super) fn render(table: &Table, name: &QualifiedName, purpose: Purpose) -> String {
    let mut parts: Vec<String> =
        table.columns.iter().map(|c| render_column(table, c, purpose)).collect();
    for check in table.constraints.iter().filter(|c| c.kind == 'c' && c.validated) {
        parts.push(format!("CONSTRAINT {} {}", quote_ident(&check.name), check.definition));
    }
    let mut sql = format!("CREATE TABLE {name} (\n  {}\n)", parts.join(",\n  "));
    if let Some(am) = &table.access_method {
        sql.push_str(&format!(" USING {}", quote_ident(am)));
    }
    if let Some(tablespace) = &table.tablespace {
        sql.push_str(&format!(" TABLESPACE {}", quote_ident(tablespace)));
    }
    sql
}

fn render_column(table: &Table, column: &Column, purpose: Purpose) -> String {
    let mut sql = format!("{} {}", quote_ident(&column.name), column.type_sql);
    if let Some(collation) = &column.collation {
        sql.push_str(&format!(" COLLATE {collation}"));
    }
    sql.push_str(&not_null(table, column));
    if !column.identity.is_empty() {
        let always = column.identity == "a" && purpose == Purpose::Clone;
        let kind = if always { "ALWAYS" } else { "BY DEFAULT" };
        sql.push_str(&format!(" GENERATED {kind} AS IDENTITY"));
        if let Some(sequence) = table.identity_of(column) {
            sql.push_str(&format!(" ({})", sequence_options(sequence)));
        }
    } else if let Some(default) = &column.default {
        match column.generated.as_str() {
            "s" => sql.push_str(&format!(" GENERATED ALWAYS AS ({default}) STORED")),
            "v" => sql.push_str(&format!(" GENERATED ALWAYS AS ({default}) VIRTUAL")),
            _ => sql.push_str(&format!(" DEFAULT {default}")),
        }
    }
    sql
}

fn not_null(table: &Table, column: &Column) -> String {
    // Since 18 it is a constraint with a name.
    let of = |c: &&Constraint| c.kind == 'n' && c.attnums == [column.attnum];
    match table.constraints.iter().find(of) {
        _ if !column.not_null => String::new(),
        Some(constraint) => {
            let inherit = if constraint.no_inherit { " NO INHERIT" } else { "" };
            format!(" CONSTRAINT {} NOT NULL{inherit}", quote_ident(&constraint.name))
        }
        None => " NOT NULL".to_owned(),
    }
}

pub(super) fn sequence_options(s: &Sequence) -> String {
    format!(
        "START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {} {}",
        s.start,
        s.increment,
        s.min,
        s.max,
        s.cache,
        if s.cycle { "CYCLE" } else { "NO CYCLE" }
    )
}
