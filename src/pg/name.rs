//! Names and their quoting: the one place where an identifier becomes SQL text.

use std::fmt;

/// The longest name PostgreSQL keeps, in bytes (`NAMEDATALEN - 1`).
pub const MAX_NAME_BYTES: usize = 63;

/// An identifier as SQL text, always in double quotes.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as an SQL literal, whatever `standard_conforming_strings` says.
/// For statements that take no parameters (DDL, SET); elsewhere values travel as parameters.
pub fn quote_literal(value: &str) -> String {
    let body = value.replace('\'', "''");
    if body.contains('\\') {
        format!(" E'{}'", body.replace('\\', "\\\\"))
    } else {
        format!("'{body}'")
    }
}

/// A table's name as one word of a shell's command line.
pub fn shell_word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    match name.chars().all(plain) {
        true => name.to_owned(),
        false => shell_quoted(name),
    }
}

/// Any text as one word of a shell's command line.
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `base` with `suffix`, cut at a character boundary so that the whole fits into 63 bytes.
pub fn derived_name(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(MAX_NAME_BYTES.saturating_sub(suffix.len()));
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// `derived_name`, numbered until `taken` has nothing against it.
pub fn free_name(base: &str, suffix: &str, taken: impl Fn(&str) -> bool) -> String {
    let first = derived_name(base, suffix);
    if !taken(&first) {
        return first;
    }
    (1u64..)
        .map(|n| derived_name(base, &format!("{suffix}{n}")))
        .find(|name| !taken(name))
        .unwrap_or(first)
}

/// A schema-qualified name; displays as quoted SQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

impl QualifiedName {
    /// `schema.name`, both as stored in the catalog.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        QualifiedName { schema: schema.into(), name: name.into() }
    }

    /// Another name in the same schema.
    pub fn sibling(&self, name: impl Into<String>) -> Self {
        QualifiedName::new(self.schema.clone(), name)
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_survive_every_character() {
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(QualifiedName::new("s", "Ünï \"x\"").to_string(), "\"s\".\"Ünï \"\"x\"\"\"");
    }

    #[test]
    fn derived_names_fit_into_63_bytes_and_cut_no_character() {
        let long = "ü".repeat(31) + "x";
        assert_eq!(long.len(), 63);
        let name = derived_name(&long, "_old");
        assert!(name.len() <= MAX_NAME_BYTES && name.ends_with("ü_old"), "{name}");
        assert_eq!(derived_name("orders", "_v2"), "orders_v2");
        assert_eq!(free_name("t", "_old", |n| n == "t_old" || n == "t_old1"), "t_old2");
    }

    #[test]
    fn a_shell_takes_a_name_as_it_stands() {
        assert_eq!(shell_word("public.orders"), "public.orders");
        assert_eq!(shell_word("\"Bob's\""), "'\"Bob'\\''s\"'");
    }
}
