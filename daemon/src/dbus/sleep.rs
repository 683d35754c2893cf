//! Rests before the machine sleeps, as logind tells. Invariant: the machine is held up only until the engine is between
//! two steps, without logind nothing happens here, a logind that comes anew is asked anew, and who sends signals of
//! logind's names to us changes nothing.
use super::{BUS, BUS_PATH, Bus, Door};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use zbus::{Message, OwnedFd};

const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const LOGIND_MANAGER: &str = "org.freedesktop.login1.Manager";
/// The engine comes to the end of its step within so long, or the machine sleeps all the same.
const STEP_MAX: Duration = Duration::from_secs(4);

const RULES: [&str; 2] = [
    "type='signal',sender='org.freedesktop.login1',path='/org/freedesktop/login1',interface='org.freedesktop.login1.Manager',member='PrepareForSleep'",
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.freedesktop.login1'",
];

/// What logind said last. It is heard where all messages are read, and nothing is asked there: an answer would come
/// behind whatever else is sent to us, and that may be without end.
#[derive(Default)]
pub struct Logind {
    /// Its unique name.
    name: watch::Sender<Option<String>>,
    /// The machine is about to sleep.
    sleeps: watch::Sender<bool>,
}

impl Logind {
    /// The name has another owner, or none.
    pub fn renamed(&self, name: &str, owner: &str) {
        if name == LOGIND {
            self.name
                .send_replace(Some(owner.to_owned()).filter(|owner| !owner.is_empty()));
            // The one that is gone cannot tell any more that the machine woke up.
            self.sleeps.send_if_modified(std::mem::take);
        }
    }

    /// A signal came; anybody can send one of this name to us.
    pub fn hear(&self, signal: &Message) {
        let header = signal.header();
        let member = header.member().map(|member| member.as_str());
        let interface = header.interface().map(|interface| interface.as_str());
        if (interface, member) != (Some(LOGIND_MANAGER), Some("PrepareForSleep")) {
            return;
        }
        let sender = header.sender().map(|name| name.as_str());
        let known = self.name.borrow();
        if sender.is_some()
            && sender == known.as_deref()
            && let Ok(sleeps) = signal.body().deserialize::<bool>()
        {
            self.sleeps.send_replace(sleeps);
        }
    }
}

/// Does what logind says for as long as the connection lives.
pub async fn follow(door: Arc<Door>) {
    debug_assert_eq!(door.kind, Bus::System);
    let logind = &door.logind;
    let (mut sleeps, mut names) = (logind.sleeps.subscribe(), logind.name.subscribe());
    for rule in RULES {
        let asked = door
            .bus
            .call_method(Some(BUS), BUS_PATH, Some(BUS), "AddMatch", &rule);
        if let Err(error) = asked.await {
            return tracing::info!("the bus does not tell of the machine's sleep: {error}");
        }
    }
    if let Some(owner) = owner(&door).await {
        // What was heard meanwhile is newer.
        logind.name.send_if_modified(|name| {
            let news = name.is_none();
            name.get_or_insert(owner);
            news
        });
    }
    names.mark_unchanged();
    let mut hold = inhibit(&door).await;
    loop {
        let heard = tokio::select! {
            heard = sleeps.changed() => heard,
            heard = names.changed() => {
                // What it held for us went with the one before.
                if names.borrow_and_update().is_some() && !*sleeps.borrow() {
                    hold = inhibit(&door).await;
                }
                if heard.is_err() {
                    return;
                }
                continue;
            }
        };
        if heard.is_err() {
            return;
        }
        let asleep = *sleeps.borrow_and_update();
        if asleep {
            tracing::info!("the machine goes to sleep; work rests");
            let engine = door.app.engine.clone();
            let resting = tokio::task::spawn_blocking(move || engine.pause(STEP_MAX));
            if !resting.await.unwrap_or(false) {
                tracing::warn!("the engine did not come to rest in time");
            }
            // Closing it is the leave to sleep.
            drop(hold.take());
        } else {
            door.app.engine.resume();
            tracing::info!("the machine woke up; work goes on");
            hold = inhibit(&door).await;
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

async fn owner(door: &Door) -> Option<String> {
    let asked = door
        .bus
        .call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", &LOGIND)
        .await;
    asked.ok()?.body().deserialize().ok()
}
