//! The same definition for another table.

use super::clauses::{Token, tokens};
use crate::pg::QualifiedName;

/// `sql`, as PostgreSQL prints it with every name qualified, with each relation of `moves` replaced by
/// the other one wherever it is named outside of strings and comments.
pub(super) fn retarget(sql: &str, moves: &[(QualifiedName, QualifiedName)]) -> String {
    let tokens = tokens(sql);
    let mut out = String::with_capacity(sql.len());
    let (mut at, mut copied) = (0, 0);
    while at < tokens.len() {
        let Some(to) = named(&tokens, at, moves) else {
            at += 1;
            continue;
        };
        let end = tokens[at + 2].start + tokens[at + 2].text.len();
        out.push_str(&sql[copied..tokens[at].start]);
        out.push_str(&to.to_string());
        copied = end;
        at += 3;
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
    let end = name.start + name.text.len();
    let touches = tokens.get(at + 3).is_some_and(|t| t.text == "(" && t.start == end);
    let calls = touches && before != "REFERENCES";
    if before == "." || dot.text != "." || calls {
        return None;
    }
    let (schema, name) = (schema.identifier()?, name.identifier()?);
    let found = moves.iter().find(|(from, _)| from.schema == schema && from.name == name);
    found.map(|(_, to)| to)
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
    fn quoted_names_and_longer_names_are_told_apart() {
        assert_eq!(moved("ON \"S\".\"a\"\"b\" x", ("S", "a\"b")), "ON \"x\".\"y\" x");
        for other in ["ON s.tt", "ON ss.t", "ON db.s.t", "ON \"S\".t", "-- s.t"] {
            assert_eq!(moved(other, ("s", "t")), other);
        }
    }
}
