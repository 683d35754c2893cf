//! Tells systemd how the daemon is (sd_notify). Invariant: the watchdog is fed only while the engine's own loop turns, and
//! an idle daemon wakes for nothing else.
use crate::app::{App, Phase};
use crate::ipc::in_words;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

/// How often the status line follows a daemon at work.
const NEWS: Duration = Duration::from_secs(1);
/// A start asks for so much more time, so often, so many times: a slow disk with many models is no fault.
const START_MORE: Duration = Duration::from_secs(30);
const START_EVERY: Duration = Duration::from_secs(10);
const START_ROUNDS: usize = 60;
/// Beyond the time that requests get to end, the end itself takes at most so long.
const END_MORE: Duration = Duration::from_secs(10);

/// Whether systemd, or something like it, started this daemon and listens.
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Asks for time while the models folders are read.
pub async fn starting() {
    for _ in 0..START_ROUNDS {
        send(&[
            NotifyState::Status("reading the models folders"),
            extend(START_MORE),
        ]);
        sleep(START_EVERY).await;
    }
}

/// Ready now; from now on, status lines and the watchdog.
pub async fn tell(app: Arc<App>) {
    let mut said = in_words(&app);
    send(&[NotifyState::Ready, NotifyState::Status(&said)]);
    if !is_heard() {
        return;
    }
    let mut heart = Heart::new(&app);
    let (mut on_disk, mut in_memory) = (app.catalog.changes(), app.models.changes());
    loop {
        let calm = app.is_idle() && *app.phase.borrow() == Phase::Serving;
        tokio::select! {
            () = app.activity.begun(), if calm => {}
            _ = on_disk.changed(), if calm => {}
            _ = in_memory.changed(), if calm => {}
            () = sleep(NEWS), if !calm => {}
            () = heart.tick() => heart.feed(&app),
        }
        let words = in_words(&app);
        if words != said {
            send(&[NotifyState::Status(&words)]);
            said = words;
        }
    }
}

/// Watches the engine for systemd's watchdog.
struct Heart {
    ticks: Option<tokio::time::Interval>,
    /// The engine's beats when the watchdog was last fed.
    beats: u64,
}

impl Heart {
    fn new(app: &App) -> Heart {
        let beats = app.engine.stats().beats;
        // The first question; the first tick sees the answer.
        app.engine.ping();
        let ticks = sd_notify::watchdog_enabled().map(|limit| {
            let pause = limit / 2;
            let mut ticks = interval_at(Instant::now() + pause, pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Heart { ticks, beats }
    }

    async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    fn feed(&mut self, app: &App) {
        let beats = app.engine.stats().beats;
        if beats != self.beats {
            send(&[NotifyState::Watchdog]);
        }
        self.beats = beats;
        // An idle engine sleeps: it must be asked to show that it would wake.
        app.engine.ping();
    }
}

/// The configuration is being read again. To be followed by [`reloaded`].
pub fn reloading() {
    if !is_heard() {
        return;
    }
    // Without the time of its begin, systemd could take the answer to an earlier request for the one to this.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// It was read, or the old one stays; either way requests are answered.
pub fn reloaded(app: &App, trouble: Option<&str>) {
    let words = match trouble {
        Some(trouble) => format!("the configuration could not be read again: {trouble}"),
        None => in_words(app),
    };
    send(&[NotifyState::Ready, NotifyState::Status(&words)]);
}

/// The end begins; requests may take `drain`.
pub fn stopping(drain: Duration) {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping, letting requests end"),
        extend(drain.saturating_add(END_MORE)),
    ]);
}

fn extend(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(time.as_micros().try_into().unwrap_or(u32::MAX))
}

fn send(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; with it, a lost line does no harm.
    let _ = sd_notify::notify(states);
}
