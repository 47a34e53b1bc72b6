//! One statement of the traffic: what it does to which row, and its SQL.

use tokio_postgres::types::ToSql;

/// A row's note: SQL NULL is `None`.
pub(super) type Note = Option<Box<str>>;

/// What a session is about to do; carries what it knows of the row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// The first look at a row that was there before the traffic.
    Meet {
        id: i64,
    },
    Read {
        id: i64,
        note: Note,
    },
    Insert {
        customer: i32,
        amount: String,
        token: String,
    },
    Update {
        id: i64,
        note: Note,
        token: String,
        status: &'static str,
    },
    Delete {
        id: i64,
        note: Note,
    },
    Move {
        id: i64,
        note: Note,
        to: i64,
    },
}

/// The kinds of statements; each is prepared once a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Read,
    Insert,
    Update,
    Delete,
    Move,
}

impl Action {
    pub(super) fn verb(&self) -> Verb {
        match self {
            Action::Meet { .. } | Action::Read { .. } => Verb::Read,
            Action::Insert { .. } => Verb::Insert,
            Action::Update { .. } => Verb::Update,
            Action::Delete { .. } => Verb::Delete,
            Action::Move { .. } => Verb::Move,
        }
    }

    /// The statement's parameters, in the order of [`Verb::sql`].
    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        match self {
            Action::Meet { id } | Action::Read { id, .. } | Action::Delete { id, .. } => vec![id],
            Action::Insert { customer, amount, token } => vec![customer, amount, token],
            Action::Update { id, token, status, .. } => vec![id, token, status],
            Action::Move { id, to, .. } => vec![id, to],
        }
    }
}

impl Verb {
    pub(super) fn is_write(self) -> bool {
        self != Verb::Read
    }

    /// Parameters are cast, so that they keep their types whatever types the columns get. Results
    /// are not (`*`, `id`): a column that changes must be seen to invalidate plans, as it does for
    /// an application.
    pub(super) fn sql(self, table: &str) -> String {
        match self {
            Verb::Read => format!("SELECT * FROM {table} WHERE id = $1::int8"),
            Verb::Insert => format!(
                "INSERT INTO {table} (customer_id, status, amount, note) \
                 VALUES ($1::int4, 'new', $2::text::numeric, $3::text) RETURNING id"
            ),
            Verb::Update => format!(
                "UPDATE {table} SET note = coalesce(note, '') || $2::text, status = $3::text \
                 WHERE id = $1::int8 RETURNING id"
            ),
            Verb::Delete => format!("DELETE FROM {table} WHERE id = $1::int8 RETURNING id"),
            Verb::Move => {
                format!("UPDATE {table} SET id = $2::int8 WHERE id = $1::int8 RETURNING id")
            }
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Insert => "insert",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Move => "move",
        }
    }
}
