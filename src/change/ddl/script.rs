//! The operator's file as statements about a table of a name of ours. Found by reading tokens, never by
//! understanding SQL: what the statements make, PostgreSQL is asked afterwards. What is looked at here is what a
//! trial must not even try: a statement that is about something else would lock that against everybody.

use std::collections::HashSet;

use crate::change::clauses::{Kind, Token, is_word, tokens};
use crate::error::{Error, Result};
use crate::pg::QualifiedName;
use crate::pg::name::MAX_NAME_BYTES;

/// How to write it, for whoever wrote otherwise.
const HOW: &str = "{shadow} stands for the new table's name, {shadow_2024} (or {shadow}_2024) for that of a partition with \
    _2024 at its end, {schema} for the schema of both: all of them quoted as they need, so without quotes around";

/// The schema's name, in front of one that does not begin as the table's.
const SCHEMA: &str = "{schema}";

/// One statement, as PostgreSQL gets it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    /// The line of the file that it begins in.
    line: usize,
}

impl Statement {
    /// The line of the file that the character `position` (from 1) of the statement is in: names that are put
    /// in have no line ends.
    pub(super) fn line_at(&self, position: u32) -> usize {
        let before = self.sql.chars().take((position as usize).saturating_sub(1));
        self.line + before.filter(|c| *c == '\n').count()
    }

    /// An error of the operator's file, in the line where the statement begins.
    pub(super) fn refused(&self, what: &str) -> Error {
        refused(self.line, what)
    }
}

pub(super) fn refused(line: usize, what: &str) -> Error {
    Error::usage(format!("--shadow-ddl, line {line}: {what}"))
        .state("Nothing was touched")
        .next(HOW)
}

/// The statements of `text`, about a table that is called `shadow`.
pub(super) fn statements(text: &str, shadow: &QualifiedName) -> Result<Vec<Statement>> {
    let tokens = tokens(text);
    let mut out = Vec::new();
    let mut made = HashSet::new();
    for part in tokens.split(|t| t.is_sign(";") && t.is_outside()) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let line = line_of(text, first.start);
        let items = items(text, part, shadow)?;
        about_the_shadow(&items, &mut made)
            .map_err(|(at, what)| refused(line_of(text, at), &what))?;
        out.push(Statement { sql: rendered(text, first.start, last.end(), &items), line });
    }
    if !made.contains(&shadow.to_string()) {
        return Err(refused(
            1,
            "there is no CREATE TABLE {shadow}, which is the table that the file is to make",
        ));
    }
    Ok(out)
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// What a statement consists of.
enum Item<'a> {
    Token(Token<'a>),
    /// A placeholder, and what stands for it.
    Own {
        start: usize,
        end: usize,
        sql: String,
    },
}

impl Item<'_> {
    fn is(&self, word: &str) -> bool {
        matches!(self, Item::Token(token) if token.is(word))
    }

    fn is_outside(&self) -> bool {
        match self {
            Item::Token(token) => token.is_outside(),
            Item::Own { .. } => true,
        }
    }

    fn start(&self) -> usize {
        match self {
            Item::Token(token) => token.start,
            Item::Own { start, .. } => *start,
        }
    }

    fn text(&self) -> &str {
        match self {
            Item::Token(token) => token.text,
            Item::Own { .. } => "{shadow}",
        }
    }
}

fn items<'a>(text: &'a str, tokens: &[Token<'a>], shadow: &QualifiedName) -> Result<Vec<Item<'a>>> {
    let mut out = Vec::new();
    let mut behind = 0;
    let in_quotes = |t: &&Token<'_>| t.kind == Kind::Quoted && t.text.contains("{shadow");
    if let Some(token) = tokens.iter().find(in_quotes) {
        let what = format!("{} has quotes around a placeholder", token.text);
        return Err(refused(line_of(text, token.start), &what));
    }
    for (at, token) in tokens.iter().enumerate() {
        if token.start < behind {
            continue;
        }
        if !token.is_sign("{") {
            out.push(Item::Token(*token));
            continue;
        }
        let wrong = |what: String| refused(line_of(text, token.start), &what);
        let (end, sql) = match text[token.start..].starts_with(SCHEMA) {
            true => named(token.start, &tokens[at..], shadow).ok_or_else(|| {
                wrong(format!("{SCHEMA} has no name behind it, as in {SCHEMA}.name"))
            })?,
            false => placeholder(&text[token.start..], shadow)
                .map(|(length, sql)| (token.start + length, sql))
                .map_err(wrong)?,
        };
        behind = end;
        out.push(Item::Own { start: token.start, end, sql });
    }
    Ok(out)
}

/// Where `{schema}.name` ends, and what it stands for.
fn named(start: usize, tokens: &[Token<'_>], shadow: &QualifiedName) -> Option<(usize, String)> {
    let mut behind = tokens.iter().skip_while(|t| t.start < start + SCHEMA.len());
    behind.next().filter(|t| t.is_sign("."))?;
    let name = behind.next()?;
    Some((name.end(), shadow.sibling(name.identifier()?).to_string()))
}

/// What begins with a brace: how long it is, and what stands for it.
fn placeholder(text: &str, shadow: &QualifiedName) -> std::result::Result<(usize, String), String> {
    let close = text.find('}').ok_or("a { has no } behind it")?;
    let inside = &text[1..close];
    let Some(suffix) = inside.strip_prefix("shadow").filter(|suffix| !suffix.contains('\n')) else {
        return Err(format!("{{{inside}}} is no placeholder"));
    };
    // As PostgreSQL reads a name without quotes.
    let more: String = text[close + 1..].chars().take_while(|c| is_word(*c)).collect();
    let name = format!("{}{suffix}{}", shadow.name, more.to_ascii_lowercase());
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "the name {name:?} is longer than {MAX_NAME_BYTES} bytes; give the partition one of its own: {{schema}}.name"
        ));
    }
    Ok((close + 1 + more.len(), shadow.sibling(name).to_string()))
}

fn rendered(text: &str, from: usize, to: usize, items: &[Item<'_>]) -> String {
    let mut out = String::new();
    let mut copied = from;
    for item in items {
        if let Item::Own { start, end, sql } = item {
            out.push_str(&text[copied..*start]);
            out.push_str(sql);
            copied = *end;
        }
    }
    out.push_str(text.get(copied..to).unwrap_or_default());
    out
}

/// Where in the file something is that a trial must not try, and what.
type Wrong = (usize, String);

/// `made` are the names of the tables that the statements so far make.
fn about_the_shadow(
    items: &[Item<'_>],
    made: &mut HashSet<String>,
) -> std::result::Result<(), Wrong> {
    let first = items.first().map_or(0, Item::start);
    let wrong = |what: &str| Err((first, what.to_owned()));
    if let Some(key) = items.iter().find(|item| item.is("references") || item.is("foreign")) {
        let what = "a foreign key would lock the table it refers to; those of the present table follow by themselves, \
                    and others are added with ALTER TABLE after the swap";
        return Err((key.start(), what.to_owned()));
    }
    let words: Vec<&str> = items.iter().take(2).map(Item::text).collect();
    let begins = |all: [&str; 2]| {
        words.len() == 2 && words.iter().zip(all).all(|(word, is)| word.eq_ignore_ascii_case(is))
    };
    let noise = ["temp", "temporary", "unlogged", "global", "local", "unique"];
    let kind = items.iter().skip(1).find(|item| !noise.iter().any(|word| item.is(word)));
    let creates =
        |what| items.first().is_some_and(|i| i.is("create")) && kind.is_some_and(|i| i.is(what));
    if creates("table") {
        plain(items)?;
        if let Some(Item::Own { sql, .. }) = named_behind(items, "table") {
            made.insert(sql.clone());
        }
        return of_table(items, "table", made).and_then(|()| parts(items, made));
    }
    if creates("index") {
        if let Some(item) = items.iter().find(|item| item.is("concurrently")) {
            let what = "an index of the new table is built when the rows are in, CONCURRENTLY where that is better: \
                        write it without";
            return Err((item.start(), what.to_owned()));
        }
        return of_table(items, "on", made);
    }
    if begins(["alter", "table"]) {
        return of_table(items, "table", made).and_then(|()| parts(items, made));
    }
    if begins(["comment", "on"]) {
        let before = items.iter().take_while(|item| !item.is("is"));
        return match before.into_iter().any(|item| matches!(item, Item::Own { .. })) {
            true => Ok(()),
            false => {
                wrong("the comment is not on {shadow}, one of its columns, constraints or indexes")
            }
        };
    }
    let said: Vec<&str> = items.iter().take(2).map(Item::text).collect();
    wrong(&format!(
        "only CREATE TABLE, CREATE INDEX, ALTER TABLE and COMMENT ON, of {{shadow}} and its partitions, can be in there, \
         not {}",
        said.join(" ").to_uppercase()
    ))
}

/// What follows `word`, perhaps behind ONLY and the like.
fn named_behind<'i, 'a>(items: &'i [Item<'a>], word: &str) -> Option<&'i Item<'a>> {
    let at = items.iter().position(|item| item.is_outside() && item.is(word))?;
    let skipped = ["if", "not", "exists", "only"];
    items.iter().skip(at + 1).find(|item| !skipped.iter().any(|word| item.is(word)))
}

fn of_table(
    items: &[Item<'_>],
    word: &str,
    made: &HashSet<String>,
) -> std::result::Result<(), Wrong> {
    ours(named_behind(items, word), items, made)
}

fn ours(
    name: Option<&Item<'_>>,
    items: &[Item<'_>],
    made: &HashSet<String>,
) -> std::result::Result<(), Wrong> {
    match name {
        Some(Item::Own { sql, .. }) if made.contains(sql) => Ok(()),
        Some(Item::Own { start, sql, .. }) => {
            Err((*start, format!("{sql} is made by no CREATE TABLE before")))
        }
        name => Err((
            name.or(items.first()).map_or(0, Item::start),
            format!(
                "{} is not the new table: statements are about {{shadow}} and its partitions alone",
                name.map_or("nothing", Item::text)
            ),
        )),
    }
}

/// Whatever it is a partition of, or becomes one of, is ours.
fn parts(items: &[Item<'_>], made: &HashSet<String>) -> std::result::Result<(), Wrong> {
    for (at, pair) in items.windows(2).enumerate().filter(|(_, pair)| pair[0].is_outside()) {
        let [a, b] = pair else { continue };
        let of = a.is("partition") && b.is("of");
        let goes = (a.is("attach") || a.is("detach")) && b.is("partition");
        if of || goes {
            ours(items.get(at + 2), items, made)?;
        }
    }
    Ok(())
}

/// It is made without rows.
fn plain(items: &[Item<'_>]) -> std::result::Result<(), Wrong> {
    match items.iter().find(|item| item.is_outside() && item.is("as")) {
        Some(item) => {
            let what = "CREATE TABLE … AS makes rows; name the columns, or say (LIKE the present table INCLUDING ALL)";
            Err((item.start(), what.to_owned()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shadow() -> QualifiedName {
        QualifiedName::new("S x", "Orders")
    }

    fn sql(text: &str) -> std::result::Result<Vec<String>, String> {
        let found = statements(text, &shadow()).map_err(|e| e.to_string())?;
        Ok(found.into_iter().map(|statement| statement.sql).collect())
    }

    #[test]
    fn placeholders_are_names() {
        let text = "CREATE TABLE {shadow} (id int DEFAULT ('{shadow}'::text)::int) PARTITION BY HASH (id); -- {shadow}\n\
            CREATE TABLE {shadow_A} PARTITION OF {shadow} FOR VALUES IN ('{x}');\n\
            CREATE TABLE {shadow}_B PARTITION OF {shadow} DEFAULT;\n\
            create table {shadow -1} partition of {shadow} default;\n\
            create table {schema}.\"own; name\" partition of {shadow -1} default;;\n\
            COMMENT ON COLUMN {shadow}.id IS 'a;b'";
        assert_eq!(
            sql(text).unwrap(),
            [
                "CREATE TABLE \"S x\".\"Orders\" (id int DEFAULT ('{shadow}'::text)::int) PARTITION BY HASH (id)",
                "CREATE TABLE \"S x\".\"Orders_A\" PARTITION OF \"S x\".\"Orders\" FOR VALUES IN ('{x}')",
                "CREATE TABLE \"S x\".\"Orders_b\" PARTITION OF \"S x\".\"Orders\" DEFAULT",
                "create table \"S x\".\"Orders -1\" partition of \"S x\".\"Orders\" default",
                "create table \"S x\".\"own; name\" partition of \"S x\".\"Orders -1\" default",
                "COMMENT ON COLUMN \"S x\".\"Orders\".id IS 'a;b'",
            ]
        );
    }

    #[test]
    fn what_is_about_something_else_is_not_even_tried() {
        let table = "CREATE TABLE {shadow} (id int);\n";
        for (text, why) in [
            ("", "no CREATE TABLE {shadow}"),
            ("CREATE TABLE orders (id int)", "orders is not the new table"),
            ("BEGIN", "not BEGIN"),
            ("COMMIT; DROP TABLE {shadow}", "not COMMIT"),
            ("DROP TABLE {shadow}", "not DROP TABLE"),
            ("ALTER TABLE orders DROP id", "orders is not the new table"),
            ("ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b", "ALL is not the new table"),
            ("ALTER TABLE {shadow} ATTACH PARTITION orders DEFAULT", "orders is not"),
            ("CREATE TABLE {shadow_1} PARTITION OF orders DEFAULT", "orders is not"),
            ("CREATE INDEX ON orders (id)", "orders is not the new table"),
            ("CREATE INDEX CONCURRENTLY ON {shadow} (id)", "write it without"),
            ("CREATE INDEX", "nothing is not"),
            ("CREATE", "not CREATE"),
            ("CREATE FUNCTION f() RETURNS int RETURN 1", "not CREATE FUNCTION"),
            ("CREATE TABLE {shadow} AS SELECT 1", "makes rows"),
            ("CREATE TABLE {shadow} (a int REFERENCES other)", "foreign key"),
            ("COMMENT ON TABLE orders IS '{shadow}'", "comment is not on"),
            ("CREATE TABLE \"{shadow}\" (a int)", "has quotes"),
            ("ALTER TABLE {schema}.other ADD a int", "is made by no"),
            ("CREATE TABLE {schema} (a int)", "has no name behind it"),
            ("CREATE TABLE {other} (a int)", "{other} is no placeholder"),
            ("CREATE TABLE {shadow", "no } behind"),
            (
                "CREATE TABLE {shadow_123456789012345678901234567890123456789012345678901234567890} ()",
                "longer than",
            ),
        ] {
            let error =
                sql(&format!("{table}{text}")).err().or(sql(text).err()).unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(sql(&format!("{table}\nDROP TABLE x")).unwrap_err().contains("line 3"));
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let found = statements("-- one\n\nCREATE TABLE\n  {shadow}\n (a int)", &shadow()).unwrap();
        assert_eq!((found[0].line_at(1), found[0].line_at(14), found[0].line_at(60)), (3, 4, 5));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a-z'\"$(),/*; {}\n\\\\éshadowcreatetable]{0,60}", any in ".*") {
            let _ = (sql(&text), sql(&any), sql(&format!("CREATE TABLE {{shadow}} {text}")));
        }
    }
}
