//! The D-Bus door: `org.hyprstream.Daemon1` on the system's bus or the user's own. Invariant: the daemon serves its socket
//! whether there is a bus or not, and comes back to a bus that was restarted.
mod call;
mod clients;
mod copy;
mod daemon1;
mod jobs;
mod news;
mod objects;
mod options;
mod pipe;
mod refusal;
mod route;
mod sessions;
mod sleep;
mod standard;
mod work;

use crate::app::{App, Phase};
use crate::args::Settings;
use crate::authority::Subject;
use crate::config::{BusChoice, Place};
use call::Call;
use clients::{Client, Clients};
use futures_core::Stream;
use objects::{DAEMON, Objects};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Our object.
const PATH: &str = "/org/hyprstream/Daemon1";
/// A bus that is gone is looked for again after so long at first, and then ever more seldom.
const BACK_FIRST: Duration = Duration::from_millis(100);
const BACK_MAX: Duration = Duration::from_secs(10);
/// A bus that does not greet within so long is none.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Clients get so long to see how their jobs ended when the daemon ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Properties by name.
type Properties = BTreeMap<&'static str, Variant<'static>>;

/// A bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The machine's.
    System,
    /// The user's own.
    Session,
}

/// Which bus the settings mean.
pub fn chosen(settings: &Settings) -> Option<Bus> {
    let own = || Place::user().is_some_and(|place| place.socket == settings.socket);
    match settings.config.dbus.bus {
        BusChoice::Off => None,
        BusChoice::System => Some(Bus::System),
        BusChoice::Session => Some(Bus::Session),
        // A daemon at a socket of somebody's choice is not the one that the name stands for.
        BusChoice::Auto if settings.socket == Place::system().socket => there(Bus::System),
        BusChoice::Auto if own() => there(Bus::Session),
        BusChoice::Auto => None,
    }
}

/// The bus, unless this machine or user has none.
fn there(bus: Bus) -> Option<Bus> {
    let address = std::env::var_os(match bus {
        Bus::System => "DBUS_SYSTEM_BUS_ADDRESS",
        Bus::Session => "DBUS_SESSION_BUS_ADDRESS",
    });
    let socket = match bus {
        Bus::System => Some("/run/dbus/system_bus_socket".into()),
        Bus::Session => {
            std::env::var_os("XDG_RUNTIME_DIR").map(|folder| std::path::Path::new(&folder).join("bus"))
        }
    };
    let found = address.is_some() || socket.is_some_and(|socket| socket.exists());
    if !found {
        tracing::info!(
            "there is no D-Bus {}; the Unix socket serves alone",
            bus.in_words()
        );
    }
    found.then_some(bus)
}

impl Bus {
    fn in_words(self) -> &'static str {
        match self {
            Bus::System => "system bus",
            Bus::Session => "session bus",
        }
    }
}

/// One connection to a bus, and all that hangs on it.
pub struct Door {
    /// What is served.
    pub app: Arc<App>,
    /// The connection.
    pub bus: Connection,
    kind: Bus,
    clients: Clients,
    logind: sleep::Logind,
    objects: Mutex<Objects>,
}

/// Why a door is closed.
enum Closed {
    /// The bus is gone.
    Lost,
    /// The name did not become ours.
    Unnamed(OpenError),
    /// The daemon ends.
    Ending,
}

/// Serves on a bus for as long as the daemon lives.
pub async fn serve(app: Arc<App>, kind: Bus) {
    let mut back = BACK_FIRST;
    let mut warned = false;
    loop {
        let opened = tokio::select! {
            opened = open(&app, kind) => opened,
            () = app.reached(Phase::Ending) => return,
        };
        let closed = match opened {
            Ok((door, messages)) => {
                let closed = door.serve(messages).await;
                door.close().await;
                closed
            }
            Err(error) => Closed::Unnamed(error),
        };
        match closed {
            Closed::Ending => return,
            Closed::Lost => {
                tracing::warn!("the {} is gone; looking for it again", kind.in_words());
                (back, warned) = (BACK_FIRST, false);
            }
            Closed::Unnamed(error) => {
                app.authority.set_system_bus(None);
                if !warned {
                    let words = kind.in_words();
                    tracing::warn!(
                        "no service on the {words} ({error}); the Unix socket serves, and the bus is tried again"
                    );
                }
                warned = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(back) => {}
            () = app.reached(Phase::Ending) => return,
        }
        back = (back * 2).min(BACK_MAX);
    }
}

/// Why there is no service on a bus.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Bus(#[from] zbus::Error),
    #[error("it does not answer")]
    Silent,
    #[error("the bus does not let this user own {DAEMON}: {0}; is packaging/dbus/{DAEMON}.conf installed?")]
    NotOurs(zbus::Error),
}

async fn open(app: &Arc<App>, kind: Bus) -> Result<(Arc<Door>, MessageStream), OpenError> {
    let builder = match kind {
        Bus::System => Builder::system(),
        Bus::Session => Builder::session(),
    };
    let greeted = tokio::time::timeout(GREETING_MAX, builder.build()).await;
    let bus = greeted.map_err(|_| OpenError::Silent)??;
    // Before the name is ours, so that no call is missed.
    let messages = MessageStream::from(&bus);
    let door = Door {
        app: Arc::clone(app),
        bus,
        kind,
        clients: Clients::default(),
        logind: sleep::Logind::default(),
        objects: Mutex::default(),
    };
    Ok((Arc::new(door), messages))
}

/// Asks for our name. Calls that the bus held back for it come before its answer, so they must be read meanwhile.
async fn request_name(bus: Connection) -> Result<(), OpenError> {
    // 0: wait in the queue where somebody has the name; 2 in the answer says so.
    let body = (DAEMON, 0u32);
    let asking = bus.call_method(Some(BUS), BUS_PATH, Some(BUS), "RequestName", &body);
    let said = tokio::time::timeout(GREETING_MAX, asking).await;
    let said = said.map_err(|_| OpenError::Silent)?.map_err(OpenError::NotOurs)?;
    if said.body().deserialize::<u32>()? == 2 {
        tracing::warn!("another program has the name {DAEMON}; this one waits for it to go");
    }
    Ok(())
}

impl Door {
    /// Takes what comes until the bus or the daemon is gone.
    async fn serve(self: &Arc<Self>, mut messages: MessageStream) -> Closed {
        let news = tokio::spawn(news::tell(Arc::clone(self)));
        let mut asleep = None;
        if self.kind == Bus::System {
            self.app.authority.set_system_bus(Some(self.bus.clone()));
            asleep = Some(tokio::spawn(sleep::follow(Arc::clone(self))));
        }
        let (mut naming, mut named) = (Box::pin(request_name(self.bus.clone())), false);
        let closed = loop {
            let next = poll_fn(|context| Pin::new(&mut messages).poll_next(context));
            let message = tokio::select! {
                message = next => message,
                said = &mut naming, if !named => match said {
                    Ok(()) => {
                        tracing::info!("on the {} as {DAEMON}", self.kind.in_words());
                        named = true;
                        continue;
                    }
                    Err(error) => break Closed::Unnamed(error),
                },
                () = self.app.reached(Phase::Ending) => {
                    tokio::time::sleep(LAST_WORDS).await;
                    break Closed::Ending;
                }
            };
            match message {
                Some(Ok(message)) => self.take(message).await,
                Some(Err(_)) | None if named => break Closed::Lost,
                Some(Err(_)) | None => break Closed::Unnamed(OpenError::Silent),
            }
        };
        news.abort();
        if let Some(asleep) = asleep {
            asleep.abort();
            self.app.engine.resume();
        }
        closed
    }

    async fn take(self: &Arc<Self>, message: Message) {
        match message.message_type() {
            Type::MethodCall => clients::take(self, message).await,
            Type::Signal => {
                let header = message.header();
                let from_bus = header.sender().is_some_and(|sender| sender.as_str() == BUS);
                let member = header.member().map(|member| member.as_str());
                if from_bus
                    && member == Some("NameOwnerChanged")
                    && let Ok((name, _, new)) = message.body().deserialize::<(String, String, String)>()
                {
                    self.logind.renamed(&name, &new);
                    if new.is_empty() {
                        self.clients.left(&name);
                    }
                }
                self.logind.hear(&message);
            }
            Type::MethodReturn | Type::Error => {}
        }
    }

    /// Ends all that came over this connection, and the connection.
    async fn close(&self) {
        self.app.authority.set_system_bus(None);
        self.clients.all_left();
        let jobs: Vec<_> = self.objects().jobs.values().cloned().collect();
        jobs.iter().for_each(|job| job.cancel());
        // What it says of a bus that is gone is known already.
        let _ = self.bus.clone().close().await;
    }

    /// The caller as polkit knows it; `None` on a bus that has one user alone.
    pub fn subject(&self, client: &Client) -> Option<Subject> {
        (self.kind == Bus::System).then(|| Subject::BusName {
            name: client.name.clone(),
            uid: client.uid,
        })
    }

    /// Ends what somebody had who left the bus.
    async fn forget(&self, client: &Arc<Client>) {
        let (jobs, sessions) = {
            let mut objects = self.objects();
            let is_theirs = |owner: &Arc<Client>| Arc::ptr_eq(owner, client);
            let jobs: Vec<_> = objects.jobs.extract_if(|_, job| is_theirs(&job.owner)).collect();
            let sessions: Vec<_> = objects
                .sessions
                .extract_if(|_, session| is_theirs(&session.owner))
                .collect();
            (jobs, sessions)
        };
        // Nobody is left to be told.
        jobs.iter().for_each(|(_, job)| job.cancel());
        drop(sessions);
    }

    /// Tells that an object is there; to one connection where it is private.
    pub async fn added(
        &self,
        to: Option<&Arc<Client>>,
        path: &str,
        interface: &'static str,
        has: &Properties,
    ) {
        let body = (
            ObjectPath::from_str_unchecked(path),
            HashMap::from([(interface, has)]),
        );
        self.tell(to, PATH, standard::OBJECT_MANAGER, "InterfacesAdded", &body)
            .await;
    }

    /// Tells that an object is gone.
    pub async fn removed(&self, to: Option<&Arc<Client>>, path: &str, interface: &'static str) {
        let body = (ObjectPath::from_str_unchecked(path), vec![interface]);
        self.tell(to, PATH, standard::OBJECT_MANAGER, "InterfacesRemoved", &body)
            .await;
    }

    /// Tells what changed of an object.
    pub async fn changed(
        &self,
        to: Option<&Arc<Client>>,
        path: &str,
        interface: &'static str,
        news: &Properties,
    ) {
        let none: &[&str] = &[];
        let body = (interface, news, none);
        self.tell(to, path, standard::PROPERTIES, "PropertiesChanged", &body)
            .await;
    }

    async fn tell<B: serde::Serialize + zbus::DynamicType + Sync>(
        &self,
        to: Option<&Arc<Client>>,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) {
        if to.is_some_and(|client| client.is_gone()) {
            return;
        }
        let to = to.map(|client| client.name.as_str());
        let sent = self.bus.emit_signal(to, path, interface, member, body).await;
        self.lost_message(sent);
    }

    /// What cannot be sent is lost with the bus; anything else is our own mistake.
    pub fn lost_message(&self, sent: zbus::Result<()>) {
        if let (Err(error), false) = (sent, self.bus.is_closed()) {
            tracing::warn!("a message could not be sent over the bus: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{call, clients, daemon1, jobs, options, sessions};

    #[test]
    fn the_manual_tells_the_limits() {
        let manual = include_str!("../../../man/org.hyprstream.Daemon1.5");
        let lines = [
            format!("{} KiB in all", call::OPTIONS_BYTES_MAX >> 10),
            format!(
                "{} values in one option, in containers {} deep",
                options::VALUES_MAX,
                options::DEPTH_MAX
            ),
            format!("{} messages in one call", daemon1::TURNS_MAX),
            format!("{} MiB of text in a session", sessions::TALK_BYTES_MAX >> 20),
            format!("{} sessions of one user", sessions::PER_USER_MAX),
            format!(
                "{} calls at work and {} that wait; {} connections and {} jobs of one user",
                clients::AT_WORK_MAX,
                clients::WAITING_MAX,
                clients::PER_USER_MAX,
                jobs::PER_USER_MAX
            ),
        ];
        for line in lines {
            assert!(manual.contains(&line), "{line}");
        }
    }
}
