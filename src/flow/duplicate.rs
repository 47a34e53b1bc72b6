//! Finds a row that violates a unique index of the target, once it is known which rows of the target are as the
//! captured relation has them: all but those of dirty keys. With these taken out, whatever clashes is a
//! duplicate of the data.

use super::Flow;
use super::capture::{Fence, Tracker};
use super::key::Key;
use super::sync::{SNAPSHOT_FENCE_LIMIT, Syncer, Way, describe_key};
use super::write::{Door, Isolation};
use crate::error::{Error, Kind, Result};
use crate::pg::Session;
use crate::pg::sqlstate::{Class, classify};

/// Stored keys that are read at a time.
const PAGE: i64 = 5_000;

impl Syncer {
    /// Tells a duplicate of the data where keys that clash are more than memory holds, so that no full sync
    /// comes to it. At a point like that of **Invariant 6**; nothing of it is kept. `reader` is a session for what
    /// is stored: memory is looked at first and its keys are, if they leave it meanwhile, among those.
    pub async fn look_for_duplicates(
        &self,
        tracker: &Tracker,
        door: &Door,
        fence: &Fence,
        reader: &Session,
    ) -> Result<()> {
        let _alone = door.alone().await;
        self.begin_taking_out().await?;
        let found = match fence.pass(SNAPSHOT_FENCE_LIMIT).await {
            Ok(_) => self.take_out_all(tracker, reader).await,
            Err(_) => Ok(None),
        };
        self.session.rollback().await;
        match found? {
            Some((key, error)) => Err(self.told(Some(&key), &error).await),
            None => Ok(()),
        }
    }

    /// The error that names the constraint and, of these dirty keys, one whose row violates it.
    pub(super) async fn duplicate(&self, keys: &[&Key], error: Error) -> Error {
        let found = async {
            self.begin_taking_out().await?;
            self.take_out(keys).await?;
            self.first_clash(keys.iter().copied()).await
        };
        let found = found.await;
        self.session.rollback().await;
        match found {
            Ok(Some((key, error))) => self.told(Some(&key), &error).await,
            _ => self.told(None, &error).await,
        }
    }

    async fn begin_taking_out(&self) -> Result<()> {
        self.writer.begin(&self.session, Isolation::RepeatableRead).await?;
        self.writer.as_owner(&self.session).await?;
        self.session.batch("SET CONSTRAINTS ALL IMMEDIATE").await
    }

    async fn take_out_all(
        &self,
        tracker: &Tracker,
        reader: &Session,
    ) -> Result<Option<(Key, Error)>> {
        let Some(keys) = tracker.dirty().in_memory_keys() else { return Ok(None) };
        let all: Vec<&Key> = keys.iter().collect();
        self.take_out(&all).await?;
        let mut through = 0;
        loop {
            let stored = stored_keys(reader, &self.flow, &mut through).await?;
            if stored.is_empty() {
                return self.first_clash(all.into_iter()).await;
            }
            self.take_out(&stored.iter().collect::<Vec<_>>()).await?;
        }
    }

    async fn take_out(&self, keys: &[&Key]) -> Result<()> {
        self.statements.apply(&self.session, &self.flow, keys, Way::Clear).await
    }

    /// The first of these keys whose row clashes with one that is there, or with one before it.
    async fn first_clash(&self, keys: impl Iterator<Item = &Key>) -> Result<Option<(Key, Error)>> {
        let session = &self.session;
        for key in keys {
            session.batch("SAVEPOINT one").await?;
            match self.statements.apply(session, &self.flow, &[key], Way::Upsert).await {
                Err(e) if classify(&e) == Class::Duplicate => return Ok(Some((key.clone(), e))),
                // What has no partition yet clashes with nothing.
                Err(e) if self.flow.lacks_room(&e) => {
                    session.batch("ROLLBACK TO SAVEPOINT one").await?;
                }
                done => done?,
            }
            session.batch("RELEASE SAVEPOINT one").await?;
        }
        Ok(None)
    }

    async fn told(&self, key: Option<&Key>, error: &Error) -> Error {
        let culprit = match key {
            Some(key) => describe_key(&self.session, &self.flow, key).await.ok(),
            None => None,
        };
        let culprit = culprit.map(|key| format!(" by the row with key {key}"));
        let what = format!(
            "the data violates a unique constraint of the new table{}. {}",
            culprit.unwrap_or_default(),
            error.what()
        );
        Error::new(Kind::DataDiffers, what)
            .next("Remove the duplicates or leave the constraint out, then start again")
    }
}

pub(super) async fn stored_keys(
    reader: &Session,
    flow: &Flow,
    through: &mut i64,
) -> Result<Vec<Key>> {
    let sql = "SELECT id, key FROM pgwraith.dirty WHERE migration_id = $1 AND flow = $2 AND kind = 'key' \
               AND id > $3 ORDER BY id LIMIT $4";
    let rows = reader.query(sql, &[&flow.migration, &flow.number, &*through, &PAGE]).await?;
    if let Some(last) = rows.last() {
        *through = last.get(0);
    }
    Ok(rows.iter().map(|row| Key::from_bytes(row.get(1))).collect())
}
