//! Rows for which the target has no partition, where there is no default one: whoever writes them asks for room, and
//! does the same again.
//!
//! PostgreSQL refuses the whole statement, and with it the transaction, so nothing of it is there. It is done again from
//! its beginning, at a new snapshot (**Invariant 4**): until then the row may have changed, or be gone.
//!
//! Room is made by who holds the door, shared or alone. So while somebody else is alone inside, as who builds the indexes
//! of every partition or truncates them all, no partition comes.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_postgres::types::ToSql;

use super::chunk::{Kind, Range};
use super::key::{Key, array_parameters, key_arrays};
use super::sql::where_all;
use super::sync::SLICE;
use super::{Flow, Target};
use crate::change::partition::missing::Rows;
use crate::error::{Error, Result};
use crate::pg::sqlstate::{Class, classify};

/// Of a row that has no partition, and of one that a check refuses.
const CHECK_VIOLATION: &str = "23514";

/// Who makes partitions.
pub trait MakesRoom: Send + Sync {
    /// Makes the partitions that these rows of the captured relation lack, where there still are such rows. What fails for
    /// a passing reason may be asked for again.
    fn make_room<'a>(&'a self, flow: &'a Flow, rows: Rows<'a>) -> BoxFuture<'a, Result<()>>;
}

/// Who does for a target; nobody where its partitions are what they are.
#[derive(Clone, Default)]
pub struct Room(Option<Arc<dyn MakesRoom>>);

impl Room {
    /// This one does.
    pub fn by(maker: Arc<dyn MakesRoom>) -> Self {
        Room(Some(maker))
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({})", self.0.is_some())
    }
}

impl Target {
    /// Whether a row was refused because there is no partition for it. That is told of the table that is divided; a
    /// check that refuses one has a name.
    pub(super) fn has_no_partition_for(&self, error: &Error) -> bool {
        let Some(db) = error.db().filter(|_| error.sqlstate() == Some(CHECK_VIOLATION)) else {
            return false;
        };
        let Some(partitions) = self.partitions.as_ref().filter(|_| db.constraint().is_none())
        else {
            return false;
        };
        let divided = |table: &str| {
            let all = partitions.all();
            table == self.root.name || all.iter().any(|p| p.by.is_some() && p.name == table)
        };
        db.schema() == Some(&self.root.schema) && db.table().is_some_and(divided)
    }

    /// What mends a row that does not fit.
    pub(super) fn mend_of(&self, error: &Error) -> &'static str {
        match self.has_no_partition_for(error) {
            true => {
                "The new table has no partition for it: give it one, or one for whatever has no other (DEFAULT), then start \
                 again"
            }
            false => "Correct the data or the change (USING, --map, a default), then start again",
        }
    }
}

impl Flow {
    /// Whether a row was refused for want of a partition that can be made.
    pub(crate) fn lacks_room(&self, error: &Error) -> bool {
        self.target.room.0.is_some() && self.target.has_no_partition_for(error)
    }

    /// Makes room for the rows of a range of the copy; false where that is to be asked for again.
    pub(super) async fn make_room_for_range(&self, range: &Range) -> Result<bool> {
        let bounds = self.source_range(&self.course(Kind::Copy), range.bounds(), 0);
        let from = format!("{} AS s{}", self.captured.scanned(), where_all([bounds]));
        self.make_room(&from, &range.parameters()).await
    }

    /// The same for the rows of these keys.
    pub(super) async fn make_room_for_keys(&self, keys: &[&Key]) -> Result<bool> {
        let from = format!(
            "({}) AS k JOIN {} AS s ON {}",
            self.keys(),
            self.captured.scanned(),
            self.same_key("s", "k")
        );
        for slice in keys.chunks(SLICE) {
            let arrays = key_arrays(self.key_type_oids(), slice.iter().copied());
            if !self.make_room(&from, &array_parameters(&arrays)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn make_room(&self, from: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<bool> {
        let Some(maker) = &self.target.room.0 else { return Ok(true) };
        match maker.make_room(self, Rows { from, parameters }).await {
            Err(e) if matches!(classify(&e), Class::Late | Class::Transient) => {
                tracing::debug!("no partition could be made just now: {e}");
                Ok(false)
            }
            made => made.map(|()| true),
        }
    }
}
