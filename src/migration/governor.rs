//! Watches over the run's speed: reads what presses and what the operator set, decides, and says why.
//!
//! What was set is read from the database, where any session may have written it; four times a second, so
//! that it takes effect within a second whatever became of a notification.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::hooked::{Caller, Throttled};
use super::live::Live;
use super::replicas::Asking;
use super::run::{Run, Settings};
use super::slot_guard::SlotGuard;
use super::supervisor::{Background, Supervisor};
use super::voice::{Unthrottled, Voice, told};
use super::{probing, store};
use crate::catalog::Table;
use crate::error::{Error, Kind, Result};
use crate::flow::capture::Tracker;
use crate::flow::copy::Worked;
use crate::pg::Session;
use crate::telemetry::{Held, Meter, Pressure, Sample, Speed, Standby};
use crate::throttle::account::Account;
use crate::throttle::controller::{Controller, Decision, EVERY, Reading, Reason};
use crate::throttle::critical::{self, Watching};
use crate::throttle::hush::Hushes;
use crate::throttle::limits::Limits;
use crate::throttle::replica::System;
use crate::throttle::signals::{Asked, Behind, Felt, Replicas, Seen, Signals, Told};
use crate::throttle::valve::Valve;

/// A server that does not tell how it is within this time is not well.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the state gets what the run sees of itself.
const KEEP: Duration = Duration::from_secs(1);
/// What a swap waits for, said so that it may stand alone.
const BEFORE_HOURS: &str = "the hours of --cutover-window have not come yet";

/// Decides how fast one stretch may go.
struct Governor {
    /// Used by the governor alone.
    control: Session,
    migration: i64,
    epoch: i64,
    signals: Signals,
    told: Told,
    asked: Asked,
    /// What reads by key take, where the table is worth being probed.
    felt: Option<Felt>,
    valve: Valve,
    sync_valve: Valve,
    account: Account,
    worked: Arc<Worked>,
    unthrottled: Unthrottled,
    tracker: Arc<Tracker>,
    live: Live,
    held: watch::Sender<Option<String>>,
    meter: Meter,
    throttled: Throttled,
}

/// Starts those who see that the run takes no more than it may.
pub(super) async fn start(
    run: &Run<'_>,
    supervisor: &Supervisor,
    context: &Context,
    held: watch::Sender<Option<String>>,
    (source, has_slot): (&Table, bool),
) -> Result<Vec<Background>> {
    let (told, asked) = (Told::default(), Asked::default());
    let mut all = Vec::new();
    if has_slot {
        let guard = SlotGuard {
            session: context.session("slot").await?,
            slot: context.flow.slot.clone(),
            asked: context.now(|settings| settings.index.max_slot_wal),
            told: told.clone(),
            meter: context.meter.clone(),
        };
        let failing = supervisor.clone();
        all.push(supervisor.spawn(|end| guard.guard(failing, end)));
    }
    let probing = probing::start(supervisor, context, source).await?;
    let felt = probing.map(|(felt, tasks)| {
        all.extend(tasks);
        felt
    });
    let (replicas, signals) = (Replicas::default(), context.session("signals").await?);
    let asking = Asking {
        replicas: replicas.clone(),
        role: format!("{}/replica", context.flow.migration),
        primary: System::of(&signals).await?,
        settings: context.settings.clone(),
    };
    let governor = Governor {
        control: context.session("governor").await?,
        migration: context.flow.migration,
        epoch: context.writer.epoch,
        signals: Signals::prepare(signals, replicas).await?,
        told,
        asked: asked.clone(),
        felt,
        valve: context.valve.clone(),
        sync_valve: context.sync_valve.clone(),
        account: context.account.clone(),
        worked: Arc::clone(&context.worked),
        unthrottled: context.unthrottled.clone(),
        tracker: Arc::clone(&context.tracker),
        live: run.live.clone(),
        held,
        meter: context.meter.clone(),
        throttled: Throttled::new(Caller::of(run), context.flow.migration),
    };
    let (session, settings) = (context.session("throttle query").await?, context.settings.clone());
    all.push(supervisor.spawn(|end| governor.govern(end)));
    all.push(supervisor.spawn(|end| asking.go_on(end)));
    all.push(supervisor.spawn(|end| ask(session, asked, settings, end)));
    Ok(all)
}

impl Governor {
    /// Works until `end`; fails where the server is lost.
    async fn govern(mut self, end: CancellationToken) -> Result<()> {
        let workers = self.live.now().copy.workers;
        let (mut controller, mut syncing) = (Controller::new(workers), Controller::new(workers));
        let mut voice = Voice::default();
        let mut kept: Option<Instant> = None;
        let mut keys = Keys::default();
        let mut watching = Watching::default();
        let mut hushes = Hushes::new(Instant::now());
        loop {
            let now = store::options(&self.control, self.migration).await?;
            if let Some(now) = now.filter(|now| self.live.are_news(now)) {
                if now["abort"] == true {
                    // As one that is aborted from the command line ends: nobody goes on with it.
                    let what = "aborted over SQL: pgwraith.abort()";
                    return Err(Error::new(Kind::NotResumable, what));
                }
                self.take_over(now).await?;
                // So that whoever asks sees at once that it was heard.
                kept = None;
            }
            let settings = self.live.now();
            let held = self.holds_cutover(&settings).await;
            self.held.send_if_modified(|before| std::mem::replace(before, held.clone()) != held);
            controller.set_workers(settings.copy.workers);
            syncing.set_workers(settings.copy.workers);
            let (readings, critical, anybody) = self.readings(&settings).await?;
            if let Some(over) = watching.over(&critical, Instant::now()) {
                return Err(over_critical(&over));
            }
            let standbys: Vec<Reading> =
                readings.iter().filter(|r| r.is_of_standby()).cloned().collect();
            // Who may feel it is seen late.
            if !self.valve.presence().is_used() && (anybody || !standbys.is_empty()) {
                controller.begin_slowly();
            }
            if !self.sync_valve.presence().is_used() && !standbys.is_empty() {
                syncing.begin_slowly();
            }
            let decision = controller.decide(&readings, settings.paused, Instant::now());
            self.valve.set(&decision);
            self.sync_valve.set(&match standbys.is_empty() {
                true => {
                    Decision { workers: settings.copy.workers, duty: 1.0, reason: Reason::Free }
                }
                false => syncing.decide(&standbys, false, Instant::now()),
            });
            let by_calm = anybody && settings.throttle.probe_latency.is_none();
            self.felt.iter().for_each(|felt| felt.heed(by_calm));
            if by_calm && self.valve.is_scarce() {
                let drains = self.felt.as_ref().is_some_and(Felt::drains);
                if let Some(time) = hushes.next(drains, Instant::now()) {
                    self.valve.hush(time);
                }
            }
            let most = settings.copy.workers;
            let now = (self.valve.hushed_for(), Instant::now());
            self.account.enter(&decision, &readings, most, now);
            if kept.is_none_or(|at| at.elapsed() >= KEEP) {
                self.tell(&decision, &readings, &settings);
                let facts = self.facts(&decision, &readings, &mut keys);
                store::keep_progress(&self.control, self.migration, self.epoch, &facts).await?;
                kept = Some(Instant::now());
            }
            if let Some(text) = voice.says(&decision, Instant::now()) {
                if matches!(decision.reason, Reason::Stopped(_) | Reason::Blind(_)) {
                    self.throttled.tell(&text);
                }
                self.meter.note(self.unthrottled.qualify(text, &decision.reason));
            }
            if timeout(EVERY, end.cancelled()).await.is_ok() {
                return Ok(());
            }
        }
    }

    fn tell(&self, decision: &Decision, readings: &[Reading], settings: &Settings) {
        let pressure = |r: &Reading| Pressure { signal: r.signal.clone(), share: r.pressure };
        let standby = |b: &Behind| Standby { name: b.name.clone(), lag: b.lag, bytes: b.bytes };
        self.meter.tell(Sample::Speed(Box::new(Speed {
            workers: decision.workers,
            duty: decision.duty,
            held: match decision.reason {
                Reason::Free => Held::Free,
                Reason::Paused => Held::Paused,
                Reason::HeldBack(_) | Reason::Grows(_) => Held::HeldBack,
                Reason::Stopped(_) => Held::Stopped,
                Reason::Blind(_) => Held::Blind,
            },
            reason: self.told(&decision.reason),
            pressures: readings.iter().map(pressure).collect(),
            standbys: self.signals.behind().iter().map(standby).collect(),
            paused: settings.paused,
            postponed: settings.postponed,
        })));
    }

    fn facts(&self, decision: &Decision, readings: &[Reading], keys: &mut Keys) -> Value {
        let (waiting, synced) = self.tracker.counts();
        let (keys_in, keys_out) = keys.rates(waiting, synced, Instant::now());
        let signals: Vec<Value> = readings
            .iter()
            .map(|r| json!({"signal": r.signal, "share": r.pressure, "text": r.text}))
            .collect();
        let mut facts = json!({
            "workers": decision.workers, "duty": decision.duty, "reason": self.told(&decision.reason),
            "keys_waiting": waiting, "keys_synced": synced, "keys_in": keys_in, "keys_out": keys_out,
            "signals": signals, "lock_waits": self.meter.waits_for(),
        });
        // What another run found out stays where this one has copied nothing.
        if let Some(rate) = self.worked.wal_per_second() {
            facts["copy_wal_per_second"] = json!(rate);
        }
        facts
    }

    fn told(&self, reason: &Reason) -> String {
        self.unthrottled.qualify(told(reason), reason)
    }

    /// What the cutover has to wait for.
    async fn holds_cutover(&self, settings: &Settings) -> Option<String> {
        if settings.paused {
            return Some("paused by the operator".to_owned());
        }
        if settings.postponed {
            return Some("postponed until `pgwraith cutover`".to_owned());
        }
        match settings.window.as_ref()?.is_open(&self.control).await {
            Ok(true) => None,
            Ok(false) => Some(BEFORE_HOURS.to_owned()),
            Err(e) => Some(format!("the hours of --cutover-window are not known: {}", e.what())),
        }
    }

    async fn take_over(&self, flags: Value) -> Result<()> {
        if let Err(e) = self.live.take_over(flags) {
            self.meter.note(format!("what was set is not understood: {e}"));
        }
        for words in self.live.typed(&self.control, self.migration).await? {
            self.meter.note(format!("set: {words}"));
        }
        Ok(())
    }

    /// The copy rests while the server does not answer.
    async fn look(&mut self) -> Result<Seen> {
        let look = self.signals.look();
        tokio::pin!(look);
        match timeout(ANSWER, &mut look).await {
            Ok(seen) => seen,
            Err(_) => {
                let text = format!("no answer within {} s", ANSWER.as_secs());
                let blind = Reading::of_others("server", None, text);
                self.valve.set(&Decision { workers: 0, duty: 0.0, reason: Reason::Blind(blind) });
                look.await
            }
        }
    }

    /// What is read, against the usual limits and against the critical ones.
    async fn readings(
        &mut self,
        settings: &Settings,
    ) -> Result<(Vec<Reading>, Vec<Reading>, bool)> {
        let limits = &settings.throttle;
        let seen = self.look().await?;
        let now = Instant::now();
        let felt = |limits: &Limits| {
            self.felt
                .iter()
                .flat_map(|f| f.readings(seen.anybody(), limits, now))
                .collect::<Vec<_>>()
        };
        let mut critical = Vec::new();
        if !settings.critical.is_empty() {
            let limits = critical::limits(&settings.critical, limits);
            critical = self.signals.readings(&seen, &limits);
            critical.extend(felt(&limits));
        }
        let mut readings = self.signals.readings(&seen, limits);
        self.signals.remind(&readings).await?;
        readings.extend(felt(limits));
        readings.extend(self.told.readings());
        readings.extend(limits.query.as_ref().map(|sql| self.asked.reading(sql, now)));
        let anybody = self.felt.is_some() && seen.anybody();
        Ok((readings, critical, anybody))
    }
}

fn over_critical(over: &Reading) -> Error {
    Error::failed(format!(
        "{} is over its critical limit (--critical) for seconds: {}",
        over.signal, over.text
    ))
}

/// How fast keys become dirty and are synced.
#[derive(Default)]
struct Keys(VecDeque<(Instant, u64, u64)>);

impl Keys {
    const SPAN: Duration = Duration::from_secs(10);

    /// A second, over the last [`Keys::SPAN`]; None until there is something to compare with.
    fn rates(&mut self, waiting: u64, synced: u64, now: Instant) -> (Option<f64>, Option<f64>) {
        let came = waiting + synced;
        self.0.push_back((now, came, synced));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= Self::SPAN {
            self.0.pop_front();
        }
        let (at, came_before, synced_before) = self.0[0];
        let seconds = now.duration_since(at).as_secs_f64();
        let rate = |now: u64, before: u64| {
            (seconds > 0.0).then(|| now.saturating_sub(before) as f64 / seconds)
        };
        (rate(came, came_before), rate(synced, synced_before))
    }
}

/// Asks the operator's own question, whatever it is by now.
async fn ask(
    session: Session,
    asked: Asked,
    mut settings: watch::Receiver<Settings>,
    end: CancellationToken,
) -> Result<()> {
    loop {
        let sql = settings.borrow_and_update().throttle.query.clone();
        let work = async {
            match &sql {
                Some(sql) => asked.ask(&session, sql).await,
                None => {
                    // Without a sender the governor is gone, and the end near.
                    if settings.changed().await.is_err() {
                        end.cancelled().await;
                    }
                    Ok(())
                }
            }
        };
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            done = work => done?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_over_the_last_seconds() {
        let (mut keys, start) = (Keys::default(), Instant::now());
        let mut at = |seconds, came, synced| {
            keys.rates(came - synced, synced, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, 100, 50), (None, None));
        assert_eq!(at(5, 600, 100), (Some(100.0), Some(10.0)));
        assert_eq!(at(10, 600, 100), (Some(50.0), Some(5.0)));
        assert_eq!(at(15, 600, 300), (Some(0.0), Some(20.0)), "what was before is forgotten");
    }
}
