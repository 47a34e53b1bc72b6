//! Who is in the way, told with the same words everywhere.

use std::fmt;

use tokio_postgres::Row;

use super::Lossy;

/// A backend, and what it is doing.
#[derive(Debug, Clone)]
pub struct Who {
    /// The backend's process.
    pub pid: i32,
    user: Option<String>,
    state: Option<String>,
    /// Seconds of its transaction.
    open: Option<i64>,
    query: Option<String>,
}

impl Who {
    /// The first columns of a query over `pg_stat_activity a`, for [`Who::of`].
    pub const COLUMNS: &str = "a.pid, a.usename::pg_catalog.text, a.state, \
        pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::pg_catalog.int8, \
        pg_catalog.left(a.query, 120)";

    /// From a row that begins with [`Who::COLUMNS`].
    pub fn of(row: &Row) -> Who {
        let text = |n| row.get::<_, Option<Lossy>>(n).map(|text| text.0);
        Who { pid: row.get(0), user: text(1), state: text(2), open: row.get(3), query: text(4) }
    }

    /// All of them, one after the other; None where there is nobody.
    pub fn list(all: &[Who]) -> Option<String> {
        let all: Vec<String> = all.iter().map(Who::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        write!(f, "pid {} {} ({}", self.pid, unknown(&self.user), unknown(&self.state))?;
        if let Some(seconds) = self.open {
            write!(f, ", transaction of {seconds} s")?;
        }
        f.write_str(")")?;
        match self.query.as_deref().unwrap_or_default() {
            "" => Ok(()),
            // A message has one line for each.
            query => {
                let words: Vec<&str> = query.split_whitespace().collect();
                write!(f, ": {}", words.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_server_shows() {
        let some = |text: &str| Some(text.to_owned());
        let mut who = Who {
            pid: 7,
            user: some("bi"),
            state: some("active"),
            open: Some(3),
            query: some("SELECT\n  1"),
        };
        assert_eq!(who.to_string(), "pid 7 bi (active, transaction of 3 s): SELECT 1");
        assert_eq!(
            Who::list(&[who.clone(), who.clone()]).unwrap().matches("; pid 7 bi").count(),
            1
        );
        assert_eq!(Who::list(&[]), None);
        who.query = some("");
        assert_eq!(who.to_string(), "pid 7 bi (active, transaction of 3 s)");
        (who.state, who.open, who.query) = (None, None, some("<insufficient privilege>"));
        assert_eq!(who.to_string(), "pid 7 bi (?): <insufficient privilege>");
    }
}
