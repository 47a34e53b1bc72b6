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

    /// Without what it is doing, which may hold what is nobody's business.
    pub fn identity(&self) -> String {
        let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let open = self.open.map(|seconds| format!(", transaction of {seconds} s"));
        format!(
            "pid {} {} ({}{})",
            self.pid,
            unknown(&self.user),
            unknown(&self.state),
            open.unwrap_or_default()
        )
    }

    /// What it is doing, with a colon before it and in one line; nothing where that is unknown.
    pub fn doing(&self) -> String {
        let query = self.query.as_deref().unwrap_or_default();
        let words: Vec<&str> = query.split_whitespace().collect();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.identity(), self.doing())
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
