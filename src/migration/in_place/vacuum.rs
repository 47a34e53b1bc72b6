//! VACUUM and ANALYZE, after every row was written.

use super::work::{Did, Steps};
use crate::error::Result;
use crate::migration::index;
use crate::migration::store::StoredStep;
use crate::pg::{GivesWay, Ran};

impl Steps<'_, '_, '_> {
    pub(super) async fn vacuum(&self, stored: &StoredStep) -> Result<Did> {
        let context = self.context;
        let settings = context.settings.borrow().index.clone();
        let session = index::builder(context, &settings, 0).await?;
        session.set_role(&context.writer.owner).await?;
        // Some delay, so that disks are left to others.
        session.batch("SET vacuum_cost_delay = '1ms'; SET vacuum_cost_limit = 2000").await?;
        let watcher = context.session("vacuum watch").await?;
        let _unthrottled = context.unthrottled.begin();
        let (sql, mut ways) = (&stored.step.sql, GivesWay::new(&stored.step.sql));
        loop {
            match ways.run(&watcher, session.pid(), session.batch(sql)).await {
                Ok(Ran::Done(())) => break,
                Ok(Ran::GaveWay(why)) => context.meter.note(why),
                // The change does not need it.
                Err(e) if ways.is_over() => {
                    context.meter.note(format!("{}; it is left to autovacuum", e.what()));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        self.settle(stored).await?;
        Ok(Did::default())
    }
}
