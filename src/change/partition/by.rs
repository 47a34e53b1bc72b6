//! `RANGE (column)`, `LIST (column)`, `HASH (column, …)`, as typed.

use super::Asked;
use crate::change::clauses::{Token, tokens};
use crate::error::{Error, Result};
use crate::pg::quote_ident;

/// Partitions of a HASH, at most.
const MOST: u32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    Range,
    List,
    Hash,
}

/// What rows are divided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    pub strategy: Strategy,
    pub columns: Vec<String>,
    /// What follows each of them: how it is compared, where that is not as its type says.
    pub(super) how: Vec<String>,
}

impl By {
    /// What was asked for, if it is consistent in itself.
    pub fn of(asked: &Asked) -> Result<By> {
        let by = By::parse(&asked.by)?;
        if by.how.iter().any(|how| !how.is_empty()) {
            return Err(not_understood(&asked.by));
        }
        let refuse =
            |what: &str| Err(Error::usage(format!("--partition-by {:?} {what}", asked.by)));
        match by.strategy {
            Strategy::Range if asked.every.is_none() => {
                refuse("takes what one partition spans: --partition-every \"1 month\", or a number")
            }
            Strategy::Range | Strategy::List if by.columns.len() > 1 => {
                refuse("names several columns; this version divides by one (HASH by several)")
            }
            Strategy::Hash if asked.partitions.is_none_or(|n| n == 0 || n > MOST) => {
                refuse(&format!("takes how many: --partitions 16 (1 to {MOST})"))
            }
            Strategy::Range | Strategy::List if asked.partitions.is_some() => {
                refuse("takes no --partitions: how many there are follows from the rows")
            }
            Strategy::List | Strategy::Hash if asked.every.is_some() || asked.premake.is_some() => {
                refuse(
                    "takes neither --partition-every nor --partition-premake, which are for RANGE",
                )
            }
            Strategy::Hash if asked.default.is_some() => refuse(
                "takes no --partition-default: each of its rows has a partition, and it can have no default one",
            ),
            _ => Ok(by),
        }
    }

    /// As typed, or as PostgreSQL prints it of a table: there collations and operator classes may follow.
    pub(super) fn parse(text: &str) -> Result<By> {
        let bad = || not_understood(text);
        let tokens = tokens(text);
        let [strategy, open, inner @ .., close] = &tokens[..] else { return Err(bad()) };
        let known =
            [("range", Strategy::Range), ("list", Strategy::List), ("hash", Strategy::Hash)];
        let found = known.iter().find(|(word, _)| strategy.is(word)).ok_or_else(bad)?;
        if open.text != "(" || close.text != ")" {
            return Err(bad());
        }
        let (mut columns, mut how) = (Vec::new(), Vec::new());
        for item in inner.split(|token| token.text == ",") {
            let [column, rest @ ..] = item else { return Err(bad()) };
            columns.push(column.identifier().ok_or_else(bad)?);
            // No call, and nothing else that is more than names.
            if rest.iter().any(|token| token.identifier().is_none() && !token.is_sign(".")) {
                return Err(bad());
            }
            let end = rest.last().map_or(column.end(), Token::end);
            how.push(text[column.end()..end].to_owned());
        }
        Ok(By { strategy: found.1, columns, how })
    }

    /// What follows PARTITION BY.
    pub fn sql(&self) -> String {
        let strategy = match self.strategy {
            Strategy::Range => "RANGE",
            Strategy::List => "LIST",
            Strategy::Hash => "HASH",
        };
        let columns = self.columns.iter().zip(&self.how);
        let columns: Vec<String> =
            columns.map(|(column, how)| format!("{}{how}", quote_ident(column))).collect();
        format!("{strategy} ({})", columns.join(", "))
    }
}

fn not_understood(text: &str) -> Error {
    Error::usage(format!("--partition-by {text:?} is not understood")).next(
        "Give \"RANGE (column)\", \"LIST (column)\" or \"HASH (column, …)\"; an expression cannot be \
         in a primary key: add a column for it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(by: &str) -> Result<String, String> {
        By::parse(by).map(|by| by.sql()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_three_ways_are_understood() {
        assert_eq!(sql("range(Created_At)"), Ok("RANGE (\"created_at\")".into()));
        assert_eq!(sql(" LIST ( \"A (\"\"b\" ) "), Ok("LIST (\"A (\"\"b\")".into()));
        assert_eq!(sql("Hash (a, b)"), Ok("HASH (\"a\", \"b\")".into()));
        let compared = sql("RANGE (a COLLATE \"C\" s.\"Ops\", b text_ops)");
        assert_eq!(compared, Ok("RANGE (\"a\" COLLATE \"C\" s.\"Ops\", \"b\" text_ops)".into()));
        for bad in
            ["", "RANGE", "RANGE ()", "RANGE (lower(a))", "RANGE (a),", "BY (a)", "HASH (a,)"]
        {
            assert!(sql(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_way_takes_its_own_flags() {
        let asked = |by: &str, every: Option<&str>, partitions| {
            let every = every.map(str::to_owned);
            By::of(&Asked { by: by.into(), every, partitions, ..Asked::default() })
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(asked("RANGE (a)", Some("1 day"), None), Ok(()));
        assert_eq!(asked("LIST (a)", None, None), Ok(()));
        assert_eq!(asked("HASH (a, b)", None, Some(4)), Ok(()));
        for (by, every, partitions) in [
            ("RANGE (a text_ops)", Some("1 day"), None),
            ("RANGE (a)", None, None),
            ("RANGE (a, b)", Some("1 day"), None),
            ("RANGE (a)", Some("1 day"), Some(4)),
            ("LIST (a)", Some("1"), None),
            ("LIST (a)", None, Some(4)),
            ("HASH (a)", None, None),
            ("HASH (a)", None, Some(0)),
            ("HASH (a)", None, Some(100_000)),
        ] {
            assert!(asked(by, every, partitions).is_err(), "{by} {every:?} {partitions:?}");
        }
        let default = |by: &str, every: Option<&str>, partitions, default| {
            let every = every.map(str::to_owned);
            By::of(&Asked { by: by.into(), every, partitions, default, ..Asked::default() }).is_ok()
        };
        for given in [Some(true), Some(false)] {
            assert!(default("RANGE (a)", Some("1"), None, given));
            assert!(default("LIST (a)", None, None, given));
            assert!(!default("HASH (a)", None, Some(4), given));
        }
    }
}
