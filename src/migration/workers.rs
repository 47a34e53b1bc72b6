//! The workers of a phase: as many as the settings say, whatever they say meanwhile.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::run::Settings;
use crate::error::Result;

/// Works with as many workers as `most` says, until all of them have ended. One that is not wanted any more waits at
/// the valve.
pub(super) async fn as_many<W: Future<Output = Result<()>>>(
    mut settings: watch::Receiver<Settings>,
    most: impl Fn(&Settings) -> usize,
    worker: impl Fn(usize) -> W,
) -> Result<()> {
    let (mut workers, mut begun) = (FuturesUnordered::new(), 0);
    loop {
        let wanted = most(&settings.borrow_and_update()).max(1);
        workers.extend((begun..wanted).map(&worker));
        begun = begun.max(wanted);
        tokio::select! {
            done = workers.next() => match done {
                Some(done) => done?,
                None => return Ok(()),
            },
            Ok(()) = settings.changed() => {}
        }
    }
}
