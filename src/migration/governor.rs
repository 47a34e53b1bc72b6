//! Watches over the run's speed: reads what presses and what the operator set, decides, and says why.
//!
//! What was set is read from the database, where any session may have written it; four times a second, so
//! that it takes effect within a second whatever became of a notification.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::hooked::{Caller, Throttled};
use super::run::{Run, Settings};
use super::slot_guard::SlotGuard;
use super::store;
use super::supervisor::{Background, Supervisor};
use crate::error::Result;
use crate::flow::capture::Tracker;
use crate::pg::Session;
use crate::telemetry::{Held, Meter, Pressure, Sample, Speed, Standby};
use crate::throttle::controller::{Controller, Decision, EVERY, Reading, Reason};
use crate::throttle::signals::{Asked, Behind, Signals, Told};
use crate::throttle::valve::Valve;

/// A server that does not tell how it is within this time is not well.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the state gets what the run sees of itself.
const KEEP: Duration = Duration::from_secs(1);
/// The same reason is told again only after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// It may be gone in a moment.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// What it takes to read the settings anew.
type Reread = fn(&Value) -> Result<Settings>;

/// Decides how fast one stretch may go.
struct Governor {
    /// Used by the governor alone.
    control: Session,
    migration: i64,
    epoch: i64,
    signals: Signals,
    told: Told,
    asked: Asked,
    valve: Valve,
    tracker: Arc<Tracker>,
    settings: watch::Sender<Settings>,
    held: watch::Sender<Option<String>>,
    /// The flags that the settings are from.
    options: Value,
    reread: Reread,
    meter: Meter,
    throttled: Throttled,
}

/// Starts those who see that the run takes no more than it may.
pub(super) async fn start(
    run: &Run<'_>,
    supervisor: &Supervisor,
    context: &Context,
    (settings, held): (watch::Sender<Settings>, watch::Sender<Option<String>>),
) -> Result<Vec<Background>> {
    let (told, asked) = (Told::default(), Asked::default());
    let guard = SlotGuard {
        session: context.session("slot").await?,
        slot: context.flow.slot.clone(),
        asked: run.settings.index.max_slot_wal,
        told: told.clone(),
        meter: context.meter.clone(),
    };
    let governor = Governor {
        control: context.session("governor").await?,
        migration: context.flow.migration,
        epoch: context.writer.epoch,
        signals: Signals::prepare(context.session("signals").await?).await?,
        told,
        asked: asked.clone(),
        valve: context.valve.clone(),
        tracker: Arc::clone(&context.tracker),
        settings,
        held,
        options: run.options.clone(),
        reread: run.reread,
        meter: context.meter.clone(),
        throttled: Throttled::new(Caller::of(run), context.flow.migration),
    };
    let (session, settings) = (context.session("throttle query").await?, context.settings.clone());
    let failing = supervisor.clone();
    Ok(vec![
        supervisor.spawn(|end| guard.guard(failing, end)),
        supervisor.spawn(|end| governor.govern(end)),
        supervisor.spawn(|end| ask(session, asked, settings, end)),
    ])
}

impl Governor {
    /// Works until `end`; fails where the server is lost.
    async fn govern(mut self, end: CancellationToken) -> Result<()> {
        let mut controller = Controller::new(self.settings.borrow().copy.workers);
        let mut voice = Voice::default();
        let mut kept: Option<Instant> = None;
        loop {
            let now = store::options(&self.control, self.migration).await?;
            if let Some(now) = now.filter(|now| *now != self.options) {
                self.take_over(&now);
                self.options = now;
            }
            let settings = self.settings.borrow().clone();
            let held = self.holds_cutover(&settings).await;
            self.held.send_if_modified(|before| std::mem::replace(before, held.clone()) != held);
            controller.set_workers(settings.copy.workers);
            let readings = self.readings(&settings).await?;
            let decision = controller.decide(&readings, settings.paused, Instant::now());
            self.valve.set(&decision);
            if kept.is_none_or(|at| at.elapsed() >= KEEP) {
                self.tell(&decision, &readings, &settings);
                let facts = self.facts(&decision, &readings);
                store::keep_progress(&self.control, self.migration, self.epoch, &facts).await?;
                kept = Some(Instant::now());
            }
            if let Some(text) = voice.says(&decision, Instant::now()) {
                if matches!(decision.reason, Reason::Stopped(_) | Reason::Blind(_)) {
                    self.throttled.tell(&text);
                }
                self.meter.note(text);
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
                Reason::HeldBack(_) => Held::HeldBack,
                Reason::Stopped(_) => Held::Stopped,
                Reason::Blind(_) => Held::Blind,
            },
            reason: told(&decision.reason),
            pressures: readings.iter().map(pressure).collect(),
            standbys: self.signals.behind().iter().map(standby).collect(),
            paused: settings.paused,
            postponed: settings.postponed,
        })));
    }

    fn facts(&self, decision: &Decision, readings: &[Reading]) -> Value {
        let (waiting, synced) = {
            let dirty = self.tracker.dirty();
            (dirty.backlog(), dirty.synced())
        };
        let signals: Vec<Value> = readings
            .iter()
            .map(|r| json!({"signal": r.signal, "share": r.pressure, "text": r.text}))
            .collect();
        json!({
            "workers": decision.workers, "duty": decision.duty, "reason": told(&decision.reason),
            "keys_waiting": waiting, "keys_synced": synced, "signals": signals,
        })
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
            Ok(false) => Some("for the hours of --cutover-window".to_owned()),
            Err(e) => Some(format!("the hours of --cutover-window are not known: {}", e.what())),
        }
    }

    /// What cannot be understood changes nothing.
    fn take_over(&self, options: &Value) {
        match (self.reread)(options) {
            Ok(settings) => {
                self.meter.note(format!("set: {}", set(options)));
                self.settings.send_replace(settings);
            }
            Err(e) => self.meter.note(format!("what was set is not understood: {e}")),
        }
    }

    async fn readings(&mut self, settings: &Settings) -> Result<Vec<Reading>> {
        let limits = &settings.throttle;
        let read = self.signals.read(limits);
        tokio::pin!(read);
        let mut readings = match timeout(ANSWER, &mut read).await {
            Ok(readings) => readings?,
            Err(_) => {
                let signal = "server".to_owned();
                let text = format!("no answer within {} s", ANSWER.as_secs());
                let blind = Reading { signal, pressure: None, text };
                self.valve.set(&Decision { workers: 0, duty: 0.0, reason: Reason::Blind(blind) });
                read.await?
            }
        };
        readings.extend(self.told.readings());
        let asked = limits.query.as_ref().map(|sql| self.asked.reading(sql, Instant::now()));
        readings.extend(asked);
        Ok(readings)
    }
}

/// Why it goes as fast as it does, in a few words.
fn told(reason: &Reason) -> String {
    match reason {
        Reason::Free => "nothing holds it back".to_owned(),
        Reason::Paused => "paused by the operator".to_owned(),
        Reason::HeldBack(r) => format!("held back by {}: {}", r.signal, r.text),
        Reason::Stopped(r) => format!("it waits for {}: {}", r.signal, r.text),
        Reason::Blind(r) => {
            format!("it waits, since {} cannot be measured: {}", r.signal, r.text)
        }
    }
}

/// The settings that are not the usual ones, as they are typed.
fn set(options: &Value) -> String {
    let all = options.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let typed = all.map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={value}", name.replace('_', "-"))
    });
    typed.collect::<Vec<_>>().join(" ")
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

/// Says what holds the copy up, once it lasts, and when it is over.
#[derive(Default)]
struct Voice {
    /// What holds it up now, and since when; whether that was told, and when.
    held: Option<(String, Instant)>,
    told: Option<(String, Instant)>,
}

impl Voice {
    fn says(&mut self, decision: &Decision, now: Instant) -> Option<String> {
        let gist = match &decision.reason {
            // Slower for a while, as it should be: the progress shows it.
            Reason::Free | Reason::HeldBack(_) => {
                self.held = None;
                return self.told.take().map(|_| "it goes on".to_owned());
            }
            Reason::Paused => "paused".to_owned(),
            Reason::Stopped(r) | Reason::Blind(r) => r.signal.clone(),
        };
        let since = match &self.held {
            Some((held, since)) if *held == gist => *since,
            _ => now,
        };
        self.held = Some((gist.clone(), since));
        let is_told = self
            .told
            .as_ref()
            .is_some_and(|(before, at)| *before == gist && now.duration_since(*at) < TELL_AGAIN);
        if is_told || decision.reason != Reason::Paused && now.duration_since(since) < WORTH_TELLING
        {
            return None;
        }
        self.told = Some((gist, now));
        Some(told(&decision.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_a_minute_and_that_it_is_over() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        let reading = Reading {
            signal: "standby eu2".into(),
            pressure: Some(2.0),
            text: "4.0 of 2 s".into(),
        };
        let decision = |reason| Decision { workers: 0, duty: 0.0, reason };
        let mut at = |seconds, reason: &Reason| {
            voice.says(&decision(reason.clone()), start + Duration::from_secs(seconds))
        };
        let stopped = Reason::Stopped(reading);
        assert_eq!(at(0, &stopped), None);
        assert_eq!(at(2, &stopped).unwrap(), "it waits for standby eu2: 4.0 of 2 s");
        assert_eq!(at(30, &stopped), None);
        assert!(at(62, &stopped).is_some());
        assert_eq!(at(63, &Reason::Free).unwrap(), "it goes on");
        assert_eq!(at(64, &Reason::Free), None);
        assert_eq!(at(65, &Reason::Paused).unwrap(), "paused by the operator");
    }

    #[test]
    fn what_was_set_is_shown_as_it_is_typed() {
        let options = serde_json::json!({"max_lag": "500ms", "workers": 4, "chunk_rows": null});
        assert_eq!(set(&options), "max-lag=500ms workers=4");
    }
}
