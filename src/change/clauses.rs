//! The one thing PostgreSQL does not tell after the fact: the USING expression of an
//! `ALTER COLUMN … TYPE`. Found by reading the clauses' tokens, never by understanding SQL: the
//! clauses themselves are judged by the server.

/// `ALTER [COLUMN] name … TYPE … USING expression`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Using {
    pub column: String,
    pub expression: String,
}

/// The USING expressions in the clauses of one ALTER TABLE.
pub(super) fn using_expressions(clauses: &str) -> Vec<Using> {
    split_clauses(&tokens(clauses)).into_iter().filter_map(|c| using_of(clauses, c)).collect()
}

/// The names that the clauses give to columns and constraints that had others.
pub(super) fn new_names(clauses: &str) -> Vec<String> {
    let new_name = |clause: &[Token<'_>]| match clause {
        [rename, .., to, name] if rename.is("rename") && to.is("to") => name.identifier(),
        _ => None,
    };
    split_clauses(&tokens(clauses)).into_iter().filter_map(new_name).collect()
}

/// Every word and quoted name of an expression that may be a column's.
pub(super) fn words(expression: &str) -> Vec<String> {
    tokens(expression).iter().filter_map(Token::identifier).collect()
}

/// The clauses of one ALTER TABLE, each as it was typed.
pub(super) fn clauses(text: &str) -> Vec<&str> {
    let tokens = tokens(text);
    let all = split_clauses(&tokens).into_iter();
    all.filter_map(|clause| text.get(clause.first()?.start..clause.last()?.end())).collect()
}

/// Whether a clause adds a column, or a constraint.
pub(super) fn adds(clause: &str) -> bool {
    tokens(clause).first().is_some_and(|token| token.is("add"))
}

/// Whether a clause is about what a column gets where nothing is said: its default, expression or identity.
pub(super) fn about_values(clause: &str) -> bool {
    let tokens = tokens(clause);
    let about = ["default", "expression", "identity", "generated"];
    let says = |token: &Token<'_>| token.is_outside() && about.iter().any(|word| token.is(word));
    tokens.first().is_some_and(|token| token.is("alter")) && tokens.iter().any(says)
}

/// The columns that the clauses give another type.
pub(super) fn retyped(clauses: &str) -> Vec<String> {
    split_clauses(&tokens(clauses))
        .into_iter()
        .filter_map(|c| typed(c).map(|(name, _)| name))
        .collect()
}

/// Whether what hangs on something that goes would go with it. What a foreign key does ON DELETE is another thing.
pub(super) fn cascade(clauses: &str) -> bool {
    let goes = |clause: &[Token<'_>]| {
        clause.first().is_some_and(|token| token.is("drop"))
            && clause.last().is_some_and(|token| token.is("cascade"))
    };
    split_clauses(&tokens(clauses)).into_iter().any(goes)
}

/// What the clauses enable or disable that a clone has none of: triggers or rules.
pub(super) fn fires(clauses: &str) -> Option<&'static str> {
    let fires = |clause: &[Token<'_>]| {
        let mut words = clause.iter();
        words.next().filter(|t| t.is("enable") || t.is("disable"))?;
        let what = words.find(|t| !t.is("always") && !t.is("replica"))?;
        let known = [("trigger", "triggers"), ("rule", "rules")];
        known.into_iter().find(|(word, _)| what.is(word)).map(|(_, many)| many)
    };
    split_clauses(&tokens(clauses)).into_iter().find_map(fires)
}

/// Whether the clauses say what the table inherits from. A check's NO INHERIT is another thing.
pub(super) fn inherits(clauses: &str) -> bool {
    let inherits = |clause: &[Token<'_>]| match clause {
        [no, inherit, ..] if no.is("no") => inherit.is("inherit"),
        [first, ..] => first.is("inherit"),
        [] => false,
    };
    split_clauses(&tokens(clauses)).into_iter().any(inherits)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Quoted,
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) start: usize,
    /// Depth of parentheses and brackets around it.
    depth: usize,
}

impl Token<'_> {
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this sign, in no literal and no name.
    pub(super) fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Other && self.text == sign
    }

    /// Whether no parentheses are around it.
    pub(super) fn is_outside(&self) -> bool {
        self.depth == 0
    }

    /// Where what follows it starts.
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// The identifier it stands for, folded as the server folds.
    pub(super) fn identifier(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_ascii_lowercase()),
            Kind::Quoted => {
                let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
                Some(inner.replace("\"\"", "\""))
            }
            Kind::Other => None,
        }
    }
}

fn split_clauses<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    tokens.split(|t| t.depth == 0 && t.kind == Kind::Other && t.text == ",").collect()
}

/// The column of `ALTER [COLUMN] name [SET DATA] TYPE …`, and what follows that.
fn typed<'t, 'a>(clause: &'t [Token<'a>]) -> Option<(String, &'t [Token<'a>])> {
    let mut rest = clause;
    let next = |rest: &mut &[Token<'_>], word: &str| {
        let hit = rest.first().is_some_and(|t| t.is(word));
        if hit {
            *rest = &rest[1..];
        }
        hit
    };
    if !next(&mut rest, "alter") {
        return None;
    }
    next(&mut rest, "column");
    let column = rest.first()?.identifier()?;
    rest = &rest[1..];
    if next(&mut rest, "set") && !next(&mut rest, "data") {
        return None;
    }
    next(&mut rest, "type").then_some((column, rest))
}

fn using_of(source: &str, clause: &[Token<'_>]) -> Option<Using> {
    let (column, rest) = typed(clause)?;
    let using = rest.iter().position(|t| t.depth == 0 && t.is("using"))?;
    let first = rest.get(using + 1)?;
    let last = rest.last()?;
    let expression = source.get(first.start..last.start + last.text.len())?.to_owned();
    Some(Using { column, expression })
}

/// Cuts SQL text into words, quoted identifiers and the rest; comments and blanks vanish.
pub(super) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let (len, kind) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '-' if rest.starts_with("--") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '/' if rest.starts_with("/*") => {
                at += block_comment(rest);
                continue;
            }
            '\'' => (quoted(rest, '\'', is_escape_string(&out, at)), Kind::Other),
            '"' => (quoted(rest, '"', false), Kind::Quoted),
            '$' => (dollar_quoted(rest), Kind::Other),
            c if is_word_start(c) => (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), Kind::Word),
            c => (c.len_utf8(), Kind::Other),
        };
        if matches!(c, ')' | ']') {
            depth = depth.saturating_sub(1);
        }
        out.push(Token { kind, text: &sql[at..at + len], start: at, depth });
        if matches!(c, '(' | '[') {
            depth += 1;
        }
        at += len;
    }
    out
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

pub(super) fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

/// Whether the string that starts at `at` directly follows a lone `E`.
fn is_escape_string(before: &[Token<'_>], at: usize) -> bool {
    before.last().is_some_and(|t| t.is("e") && t.start + 1 == at)
}

fn quoted(rest: &str, quote: char, backslash: bool) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c == '\\' && backslash {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some(&(_, next)) if next == quote => {
                    chars.next();
                }
                _ => return i + 1,
            }
        }
    }
    rest.len()
}

fn dollar_quoted(rest: &str) -> usize {
    let Some(end) = rest[1..].find('$').map(|i| i + 2) else { return 1 };
    let tag = &rest[..end];
    let name = &tag[1..tag.len() - 1];
    if !name.chars().all(is_word) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return 1;
    }
    rest[end..].find(tag).map_or(rest.len(), |i| end + i + tag.len())
}

fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(clauses: &str) -> Vec<(String, String)> {
        using_expressions(clauses).into_iter().map(|u| (u.column, u.expression)).collect()
    }

    #[test]
    fn cascade_is_a_word_and_no_name() {
        assert!(cascade("DROP CONSTRAINT a Cascade"));
        for other in [
            "DROP COLUMN \"cascade\"",
            "ALTER a SET DEFAULT 'cascade'",
            "DROP COLUMN cascades",
            "DROP CONSTRAINT a, ADD CONSTRAINT a FOREIGN KEY (b) REFERENCES t ON DELETE CASCADE",
        ] {
            assert!(!cascade(other), "{other}");
        }
    }

    #[test]
    fn new_names_are_those_behind_to() {
        assert_eq!(new_names("RENAME COLUMN a TO \"B\""), ["B"]);
        assert_eq!(new_names("rename a to B"), ["b"]);
        assert_eq!(new_names("ALTER a TYPE t USING rename(a, 'to'), DROP b"), [""; 0]);
        assert_eq!(words("(a + \"B\") || 'c'"), ["a", "B"]);
    }

    #[test]
    fn using_is_found_and_nothing_else() {
        let one = |c: &str, e: &str| vec![(c.to_owned(), e.to_owned())];
        assert_eq!(found("ALTER a TYPE int USING a::int"), one("a", "a::int"));
        assert_eq!(
            found(
                "alter column \"Ü \"\"x\" set data type numeric(10, 2) using round(\"y\", 2) -- end"
            ),
            one("Ü \"x", "round(\"y\", 2)")
        );
        assert_eq!(
            found("ADD x int, ALTER b TYPE text USING concat(b, ', using ', $q$,'$q$), DROP c"),
            one("b", "concat(b, ', using ', $q$,'$q$)")
        );
        assert_eq!(
            found("ALTER a TYPE t USING e'\\'', /* , */ ALTER b TYPE u"),
            one("a", "e'\\''")
        );
        assert_eq!(found("ALTER a SET NOT NULL"), []);
        assert_eq!(found("ADD CONSTRAINT u UNIQUE USING INDEX i"), []);
        assert_eq!(found("ALTER a TYPE bigint"), []);
    }

    #[test]
    fn clauses_are_told_apart() {
        assert_eq!(
            clauses("ADD a numeric(1, 2) DEFAULT f(1, ','), /* , */ DROP \"b,\" -- , c"),
            ["ADD a numeric(1, 2) DEFAULT f(1, ',')", "DROP \"b,\""]
        );
        assert!(clauses(" , ").is_empty());
    }

    #[test]
    fn what_is_about_firing_is_found() {
        for clauses in ["DISABLE TRIGGER x", "add c int, enable always trigger \"X\""] {
            assert_eq!(fires(clauses), Some("triggers"), "{clauses}");
        }
        assert_eq!(fires("ENABLE REPLICA RULE r"), Some("rules"));
        for clauses in
            ["ENABLE ROW LEVEL SECURITY", "ADD disable int, ADD trigger int", "", "DISABLE"]
        {
            assert_eq!(fires(clauses), None, "{clauses}");
        }
    }

    #[test]
    fn inheritance_is_found() {
        for clauses in ["INHERIT p", "add c int, no Inherit s.p"] {
            assert!(inherits(clauses), "{clauses}");
        }
        for clauses in
            ["ADD CHECK (a > 0) NO INHERIT", "ADD inherit int", "NO FORCE ROW LEVEL SECURITY", ""]
        {
            assert!(!inherits(clauses), "{clauses}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a-z'\"$(),/* \\\\éusingtype]{0,60}", any in ".*") {
            using_expressions(&text);
            using_expressions(&any);
            using_expressions(&format!("ALTER a TYPE b USING {text}"));
        }
    }
}
