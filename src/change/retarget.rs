//! The same definition for another table.

use super::clauses::tokens;
use crate::pg::QualifiedName;

/// `sql`, as PostgreSQL prints it with every name qualified, with `from` replaced by `to` wherever it
/// is named outside of strings and comments.
pub(super) fn retarget(sql: &str, from: &QualifiedName, to: &QualifiedName) -> String {
    let tokens = tokens(sql);
    let mut out = String::with_capacity(sql.len());
    let (mut at, mut copied) = (0, 0);
    while at < tokens.len() {
        let named = match tokens.get(at..at + 3) {
            Some([schema, dot, name]) => {
                let after_dot = at > 0 && tokens[at - 1].text == ".";
                // PostgreSQL prints no blank between a function and its arguments only.
                let end = name.start + name.text.len();
                let calls = tokens.get(at + 3).is_some_and(|t| t.text == "(" && t.start == end);
                !after_dot
                    && !calls
                    && dot.text == "."
                    && schema.identifier().as_ref() == Some(&from.schema)
                    && name.identifier().as_ref() == Some(&from.name)
            }
            _ => false,
        };
        if !named {
            at += 1;
            continue;
        }
        let end = tokens[at + 2].start + tokens[at + 2].text.len();
        out.push_str(&sql[copied..tokens[at].start]);
        out.push_str(&to.to_string());
        copied = end;
        at += 3;
    }
    out.push_str(&sql[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(sql: &str, from: (&str, &str)) -> String {
        let name = |(schema, name)| QualifiedName::new(schema, name);
        retarget(sql, &name(from), &name(("x", "y")))
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
    }

    #[test]
    fn quoted_names_and_longer_names_are_told_apart() {
        assert_eq!(moved("ON \"S\".\"a\"\"b\" x", ("S", "a\"b")), "ON \"x\".\"y\" x");
        for other in ["ON s.tt", "ON ss.t", "ON db.s.t", "ON \"S\".t", "-- s.t"] {
            assert_eq!(moved(other, ("s", "t")), other);
        }
    }
}
