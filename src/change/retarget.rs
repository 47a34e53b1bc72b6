//! The same definition for another table.

use super::clauses::{Token, tokens};
use crate::pg::QualifiedName;

/// `sql`, as PostgreSQL prints it with every name qualified, with each relation of `moves` replaced by
/// the other one wherever it is named outside of strings and comments.
pub(super) fn retarget(sql: &str, moves: &[(QualifiedName, QualifiedName)]) -> String {
    let tokens = tokens(sql);
    let mut places = Places::default();
    let mut out = String::with_capacity(sql.len());
    let (mut at, mut copied) = (0, 0);
    while at < tokens.len() {
        // A column's name of three parts is a relation's, wherever it stands.
        let of_column = tokens.get(at + 3).is_some_and(|token| token.text == ".");
        if (places.relation || of_column)
            && let Some(to) = named(&tokens, at, moves)
        {
            out.push_str(&sql[copied..tokens[at].start]);
            out.push_str(&to.to_string());
            copied = tokens[at + 2].end();
            places.pass(&tokens[at]);
            at += 3;
            continue;
        }
        places.pass(&tokens[at]);
        at += 1;
    }
    out.push_str(&sql[copied..]);
    out
}

/// Where the relation that is named at this token goes.
fn named<'m>(
    tokens: &[Token<'_>],
    at: usize,
    moves: &'m [(QualifiedName, QualifiedName)],
) -> Option<&'m QualifiedName> {
    let Some([schema, dot, name]) = tokens.get(at..at + 3) else { return None };
    let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
    // PostgreSQL prints no blank only between a function and its arguments, and in a foreign key.
    let touches = tokens.get(at + 3).is_some_and(|t| t.text == "(" && t.start == name.end());
    if dot.text != "." || touches && before != "REFERENCES" {
        return None;
    }
    let (schema, name) = (schema.identifier()?, name.identifier()?);
    let found = moves.iter().find(|(from, _)| from.schema == schema && from.name == name);
    found.map(|(_, to)| to)
}

/// Where in a statement a relation is named. Elsewhere the same two words may be an alias and a column:
/// in `SELECT s.s FROM s.s`, say.
#[derive(Default)]
struct Places<'a> {
    /// Whether the next token is in such a place.
    relation: bool,
    here: Clause,
    /// Of the parentheses around it, the statement itself at the bottom.
    outer: Vec<Clause>,
    before: Option<Token<'a>>,
}

/// What of a statement stands between two parentheses.
#[derive(Default, Clone, Copy)]
struct Clause {
    /// A list of relations, with commas between them.
    list: bool,
    /// FROM is a clause of its own there, not one of a function's arguments (`EXTRACT(year FROM s.s)`).
    query: bool,
    /// USING names relations there, not a condition.
    using: bool,
}

impl<'a> Places<'a> {
    fn pass(&mut self, token: &Token<'a>) {
        let before = self.before.replace(*token);
        let after = |word| before.is_some_and(|token| token.is(word));
        let is = |words: &[&str]| words.iter().any(|word| token.is(word));
        self.relation = match token.text {
            "(" => self.open(),
            ")" => {
                self.here = self.outer.pop().unwrap_or_default();
                false
            }
            "," => self.here.list,
            ";" => {
                self.here = Clause::default();
                false
            }
            _ if before.is_some_and(|token| token.text == ".") => false,
            _ if is(&["from"]) => {
                let clause = (self.here.query || self.outer.is_empty()) && !after("distinct");
                self.here.using |= after("delete");
                self.here.list |= clause;
                clause
            }
            _ if is(&["using"]) => {
                self.here.list |= self.here.using;
                self.here.using
            }
            _ if is(&["select", "delete", "update"]) => {
                self.here = Clause { query: true, ..Clause::default() };
                token.is("update")
            }
            _ if is(&["where", "set", "group", "having", "order", "window", "returning"]) => {
                self.here.list = false;
                false
            }
            _ if is(&["into"]) => {
                self.here.using |= after("merge");
                true
            }
            // What follows in a list of relations is the condition of a join.
            _ if is(&["on"]) => !self.here.list,
            _ if is(&["only", "lateral"]) => self.relation,
            _ => is(&["join", "to", "references", "table", "view", "column", "sequence"]),
        };
    }

    /// Parentheses where a relation is expected hold joined ones.
    fn open(&mut self) -> bool {
        let list = self.relation && self.here.list;
        self.outer.push(std::mem::replace(&mut self.here, Clause { list, ..Clause::default() }));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(sql: &str, from: (&str, &str)) -> String {
        let name = |(schema, name)| QualifiedName::new(schema, name);
        retarget(sql, &[(name(from), name(("x", "y")))])
    }

    #[test]
    fn the_table_is_replaced_wherever_it_is_named() {
        let sql =
            "CREATE TRIGGER a BEFORE UPDATE OF b ON s.t FOR EACH ROW EXECUTE FUNCTION s.t('s.t')";
        assert_eq!(
            moved(
                "CREATE RULE r AS ON DELETE TO s.t DO ALSO DELETE FROM s.t WHERE ((s.t.a = t.b))",
                ("s", "t")
            ),
            "CREATE RULE r AS ON DELETE TO \"x\".\"y\" DO ALSO DELETE FROM \"x\".\"y\" WHERE ((\"x\".\"y\".a = t.b))"
        );
        assert!(moved(sql, ("s", "t")).ends_with("EXECUTE FUNCTION s.t('s.t')"), "{sql}");
        let key = "FOREIGN KEY (a) REFERENCES s.t(b) ON DELETE CASCADE";
        let moved = moved(key, ("s", "t"));
        assert_eq!(moved, "FOREIGN KEY (a) REFERENCES \"x\".\"y\"(b) ON DELETE CASCADE");
    }

    #[test]
    fn an_alias_and_a_column_of_it_are_no_relation() {
        for (sql, wanted) in [
            ("SELECT s.s, s.s FROM s.s WHERE s.s > 1", "SELECT s.s, s.s FROM @ WHERE s.s > 1"),
            ("SELECT 1 FROM s.s, s.s s_1, s.x", "SELECT 1 FROM @, @ s_1, s.x"),
            (
                "SELECT 1 FROM ((s.x JOIN s.s ON ((s.s = x.s))) LEFT JOIN s.s s_1 USING (s)), s.s s_2",
                "SELECT 1 FROM ((s.x JOIN @ ON ((s.s = x.s))) LEFT JOIN @ s_1 USING (s)), @ s_2",
            ),
            (
                "SELECT EXTRACT(year FROM s.s), s.s IS DISTINCT FROM s.s, (SELECT s.s FROM s.s), DISTINCT ON (s.s)",
                "SELECT EXTRACT(year FROM s.s), s.s IS DISTINCT FROM s.s, (SELECT s.s FROM @), DISTINCT ON (s.s)",
            ),
            (
                "SELECT 1 FROM LATERAL ( SELECT f(s.s, s.s) FROM ONLY s.s) x, f(s.s) y ORDER BY s.s, s.s",
                "SELECT 1 FROM LATERAL ( SELECT f(s.s, s.s) FROM ONLY @) x, f(s.s) y ORDER BY s.s, s.s",
            ),
            (
                "CREATE POLICY p ON s.s FOR DELETE TO s USING ((s.s > 1))",
                "CREATE POLICY p ON @ FOR DELETE TO s USING ((s.s > 1))",
            ),
            (
                "DELETE FROM s.x USING s.s WHERE (s.s = x.s); UPDATE s.s SET s = s.s FROM s.x, s.s s_1",
                "DELETE FROM s.x USING @ WHERE (s.s = x.s); UPDATE @ SET s = s.s FROM s.x, @ s_1",
            ),
            (
                "MERGE INTO s.x USING s.s ON (s.s = x.s) WHEN MATCHED THEN UPDATE SET s = s.s; SELECT s.s",
                "MERGE INTO s.x USING @ ON (s.s = x.s) WHEN MATCHED THEN UPDATE SET s = s.s; SELECT s.s",
            ),
        ] {
            assert_eq!(moved(sql, ("s", "s")), wanted.replace('@', "\"x\".\"y\""));
        }
    }

    #[test]
    fn quoted_names_and_longer_names_are_told_apart() {
        assert_eq!(moved("ON \"S\".\"a\"\"b\" x", ("S", "a\"b")), "ON \"x\".\"y\" x");
        for other in ["ON s.tt", "ON ss.t", "ON db.s.t", "ON \"S\".t", "-- s.t"] {
            assert_eq!(moved(other, ("s", "t")), other);
        }
    }
}
