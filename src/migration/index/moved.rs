//! Before the key's index is built: rows that moved in the order that was copied in ([`crate::flow::moved`]).

use std::time::Duration;

use tokio::time::timeout;

use super::present;
use crate::error::Result;
use crate::flow::moved;
use crate::flow::sync::FENCE_LIMIT;
use crate::migration::context::Context;
use crate::shadow;

/// Takes their rows out; `told` says whether the stream has told of all of them.
pub(super) async fn take_out(context: &Context, told: bool) -> Result<()> {
    let flow = &context.flow;
    if flow.order.is_none() {
        return Ok(());
    }
    let session = context.session("moved").await?;
    let columns: Vec<&str> = flow.key.iter().map(|key| key.target.as_str()).collect();
    // By then each key is there once, and those that are not are dirty or were synced.
    let shadow = present::now(&session, &flow.target.root).await?;
    if shadow::key_index(&shadow, &columns).is_some() {
        return Ok(());
    }
    let gone = match told {
        true => told_rows(context, &session).await?,
        false => {
            let _alone = context.door.alone().await;
            moved::take_out_twins(&session, flow, &context.writer).await?
        }
    };
    if gone > 0 {
        let why = "their keys were changed while rows were copied in the order of an index";
        context.meter.note(format!("{gone} rows are copied again: {why}"));
    }
    Ok(())
}

async fn told_rows(context: &Context, session: &crate::pg::Session) -> Result<u64> {
    let reader = context.session("stored keys").await?;
    let (writer, tracker) = (&context.writer, &context.tracker);
    let mut arrivals = tracker.arrivals();
    loop {
        // Behind the copy: whatever one of its snapshots sees is in the log before it.
        context.fence.pass(FENCE_LIMIT).await?;
        let alone = context.door.alone().await;
        let done = moved::take_out(session, &reader, &context.flow, writer, tracker).await?;
        drop(alone);
        match done {
            Some(gone) => return Ok(gone),
            // The truncator has the door now.
            None => drop(timeout(Duration::from_millis(50), arrivals.changed()).await),
        }
    }
}
