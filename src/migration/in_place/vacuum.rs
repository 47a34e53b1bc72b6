//! VACUUM and ANALYZE, after every row was written.

use super::work::{Did, Steps};
use crate::error::Result;
use crate::migration::index;
use crate::migration::store::StoredStep;

impl Steps<'_, '_, '_> {
    pub(super) async fn vacuum(&self, stored: &StoredStep) -> Result<Did> {
        let context = self.context;
        let settings = context.settings.borrow().index.clone();
        let session = index::builder(context, &settings, 0).await?;
        session.set_role(&context.writer.owner).await?;
        // Some delay, so that disks are left to others.
        session.batch("SET vacuum_cost_delay = '1ms'; SET vacuum_cost_limit = 2000").await?;
        let _unthrottled = context.unthrottled.begin();
        session.batch(&stored.step.sql).await?;
        self.settle(stored).await?;
        Ok(Did::default())
    }
}
