//! What the phases of one run share.

use std::sync::Arc;

use tokio::sync::watch;

use crate::catalog::Baseline;
use crate::cutover::{self, Before, Cutover};
use crate::error::Result;
use crate::flow::capture::{Fence, Tracker};
use crate::flow::copy::Worked;
use crate::flow::write::{Door, Writer};
use crate::flow::{Flow, Now};
use crate::pg::{Connector, Session};
use crate::telemetry::Meter;
use crate::throttle::account::Account;
use crate::throttle::valve::Valve;

use super::begun::Known;
use super::run::Settings;
use super::voice::Unthrottled;

/// What the phases of one run share.
pub(super) struct Context {
    pub(super) connector: Connector,
    pub(super) flow: Arc<Flow>,
    pub(super) writer: Writer,
    pub(super) tracker: Arc<Tracker>,
    pub(super) door: Door,
    pub(super) fence: Fence,
    pub(super) meter: Meter,
    /// Opened and shut by whoever protects the server.
    pub(super) valve: Valve,
    /// The same for those who write changed keys, whom standbys alone hold back.
    pub(super) sync_valve: Valve,
    /// What held it back, and for how long.
    pub(super) account: Account,
    /// What the copy's workers did while at work.
    pub(super) worked: Arc<Worked>,
    /// What is at work that nothing slows down.
    pub(super) unthrottled: Unthrottled,
    /// What the cutover has to wait for, if anything; known once the governor has looked.
    pub(super) held: watch::Receiver<Option<String>>,
    /// The settings as they are by now.
    pub(super) settings: watch::Receiver<Settings>,
}

impl Context {
    /// A session of this migration; its name tells an abort that it is ours.
    pub(super) async fn session(&self, role: &str) -> Result<Session> {
        self.connector.session(&format!("{}/{role}", self.flow.migration)).await
    }

    /// Something of the settings, as it is by now.
    pub(super) fn now<T>(&self, of: impl Fn(&Settings) -> T + Send + Sync + 'static) -> Now<T> {
        let settings = self.settings.clone();
        Box::new(move || of(&settings.borrow()))
    }

    /// The cutover; who has a word on when it begins are whoever holds it up and who is asked before.
    pub(super) fn cutover<'a>(
        &'a self,
        known: &'a Known,
        fingerprint: &'a Baseline,
        limits: &'a (dyn Fn() -> cutover::Limits + Sync),
        (held, before): (&'a (dyn Fn() -> Option<String> + Sync), &'a dyn Before),
    ) -> Cutover<'a> {
        Cutover {
            connector: &self.connector,
            flow: Arc::clone(&self.flow),
            writer: &self.writer,
            tracker: &self.tracker,
            door: &self.door,
            fence: &self.fence,
            names: &known.names,
            request: &known.request,
            target: &known.target,
            partitioning: known.partitioning.as_ref(),
            fingerprint,
            meter: &self.meter,
            limits,
            held,
            before,
            sync_valve: &self.sync_valve,
        }
    }
}
