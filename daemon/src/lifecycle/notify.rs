//! Tells systemd how the daemon is (sd_notify). Invariant: the watchdog is fed only while the engine's own loop turns.
use crate::app::App;
use crate::ipc::in_words;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

const NEWS: Duration = Duration::from_secs(2);

/// Ready now; from now on, status lines and the watchdog.
pub async fn tell(app: Arc<App>) {
    let mut said = in_words(&app);
    send(&[NotifyState::Ready, NotifyState::Status(&said)]);
    let watchdog = sd_notify::watchdog_enabled();
    let pause = watchdog.map_or(NEWS, |limit| (limit / 3).min(NEWS));
    let mut beats = app.engine.stats().beats;
    loop {
        tokio::time::sleep(pause).await;
        let now = app.engine.stats().beats;
        if watchdog.is_some() && (now != beats || app.engine.is_idle()) {
            send(&[NotifyState::Watchdog]);
        }
        beats = now;
        let words = in_words(&app);
        if words != said {
            send(&[NotifyState::Status(&words)]);
            said = words;
        }
    }
}

/// The end begins.
pub fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping, letting requests end"),
    ]);
}

fn send(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; with it, a lost line does no harm.
    let _ = sd_notify::notify(states);
}
