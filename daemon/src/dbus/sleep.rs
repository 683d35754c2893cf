//! Rests before the machine sleeps, as logind tells. Invariant: the machine is held up only until the engine is between
//! two steps, and without logind nothing happens here.
use super::{BUS, BUS_PATH, Bus, Door};
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use zbus::{MatchRule, MessageStream, OwnedFd};

const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const LOGIND_MANAGER: &str = "org.freedesktop.login1.Manager";
/// The engine comes to the end of its step within so long, or the machine sleeps all the same.
const STEP_MAX: Duration = Duration::from_secs(4);

/// Follows logind for as long as the connection lives.
pub async fn follow(door: Arc<Door>) {
    debug_assert_eq!(door.kind, Bus::System);
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface(LOGIND_MANAGER)
        .member("PrepareForSleep")
        .path(LOGIND_PATH)
        .build();
    let Ok(rule) = rule else { return };
    let mut signals = match MessageStream::for_match_rule(rule, &door.bus, None).await {
        Ok(signals) => signals,
        Err(error) => return tracing::info!("the bus does not tell of the machine's sleep: {error}"),
    };
    let mut hold = inhibit(&door).await;
    while let Some(Ok(signal)) = poll_fn(|context| Pin::new(&mut signals).poll_next(context)).await {
        // Anybody can send a signal of this name to us.
        let sender = signal.header().sender().map(|name| name.as_str().to_owned());
        if sender.is_none() || sender != logind(&door).await {
            continue;
        }
        match signal.body().deserialize::<bool>() {
            Ok(true) => {
                tracing::info!("the machine goes to sleep; work rests");
                let engine = door.app.engine.clone();
                let resting = tokio::task::spawn_blocking(move || engine.pause(STEP_MAX));
                if !resting.await.unwrap_or(false) {
                    tracing::warn!("the engine did not come to rest in time");
                }
                // Closing it is the leave to sleep.
                drop(hold.take());
            }
            Ok(false) => {
                door.app.engine.resume();
                tracing::info!("the machine woke up; work goes on");
                hold = inhibit(&door).await;
            }
            Err(_) => {}
        }
    }
}

/// Asks logind to wait for us before it lets the machine sleep.
async fn inhibit(door: &Door) -> Option<OwnedFd> {
    let body = (
        "sleep",
        "hyprstream",
        "come to the end of a computing step",
        "delay",
    );
    let asked = door
        .bus
        .call_method(Some(LOGIND), LOGIND_PATH, Some(LOGIND_MANAGER), "Inhibit", &body)
        .await;
    match asked.and_then(|reply| reply.body().deserialize::<OwnedFd>()) {
        Ok(hold) => Some(hold),
        Err(error) => {
            tracing::debug!("logind is not asked to wait: {error}");
            None
        }
    }
}

async fn logind(door: &Door) -> Option<String> {
    let asked = door
        .bus
        .call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", &LOGIND)
        .await;
    asked.ok()?.body().deserialize().ok()
}
