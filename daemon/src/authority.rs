//! Who may do what, as polkit decides. Invariant: the superuser and the daemon's own user may do everything; where no
//! polkit can be asked, others may use models and change nothing. At the Unix socket, using is not asked about: the
//! socket's own mode says who may connect, and who may connect may use.
use crate::config::own_uid;
use crate::errors::Failure;
use hyprstream_protocol::ErrorCode;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use zbus::{Connection, Variant, fdo};

/// Without a question to a person, polkit answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A person may take so long to type a password.
const PERSON_MAX: Duration = Duration::from_secs(120);
/// Let polkit ask a person.
const ALLOW_INTERACTION: u32 = 1;

/// What polkit is asked about; the policy file has the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask models.
    Use,
    /// Load and unload.
    ManageModels,
    /// Install and delete.
    Install,
    /// Read the configuration again.
    Configure,
}

impl Action {
    /// The action's id.
    pub fn id(self) -> &'static str {
        match self {
            Action::Use => "org.hyprstream.use",
            Action::ManageModels => "org.hyprstream.manage-models",
            Action::Install => "org.hyprstream.install",
            Action::Configure => "org.hyprstream.configure",
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Action::Use => "use the models of this machine",
            Action::ManageModels => "load or unload models",
            Action::Install => "install or delete models",
            Action::Configure => "have the configuration read again",
        }
    }
}

/// Who asks, in polkit's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A connection of the system bus.
    BusName {
        /// Its unique name.
        name: String,
        /// Whose it is, as the bus says.
        uid: u32,
    },
    /// A process at the other end of the Unix socket.
    Process {
        /// Its id, as the kernel says.
        pid: Option<u32>,
        /// Whose it is, as the kernel says.
        uid: u32,
    },
    /// Who has a token of the TCP door.
    Token {
        /// Whom it stands for.
        uid: u32,
    },
}

impl Subject {
    fn uid(&self) -> u32 {
        match self {
            Subject::BusName { uid, .. } | Subject::Process { uid, .. } | Subject::Token { uid } => *uid,
        }
    }
}

/// How polkit is reached.
#[derive(Default)]
pub struct Authority {
    system_bus: RwLock<Option<Connection>>,
    /// The system bus is tried for the first time.
    trying: watch::Sender<bool>,
}

/// What polkit said.
enum Verdict {
    Yes,
    No,
    /// With a password it would be yes.
    Password,
    /// There is no polkit.
    Absent,
}

impl Authority {
    /// The system bus came or went.
    pub fn set_system_bus(&self, bus: Option<Connection>) {
        *self.system_bus.write().unwrap_or_else(PoisonError::into_inner) = bus;
        self.trying.send_replace(false);
    }

    /// The system bus will come, or be known not to, which is told by `set_system_bus`.
    pub fn expect_system_bus(&self) {
        self.trying.send_replace(true);
    }

    /// Refuses what the subject may not do. `interactive`: a person may be asked for a password.
    pub async fn check(&self, action: Action, subject: &Subject, interactive: bool) -> Result<(), Failure> {
        if let Subject::Token { .. } = subject {
            // A token lies in files and settings of other programs: it never reaches further than to ask.
            return match action {
                Action::Use => Ok(()),
                _ => Err(denied(
                    action,
                    "nobody may over TCP; use the Unix socket or D-Bus",
                )),
            };
        }
        if subject.uid() == 0 || subject.uid() == own_uid() {
            return Ok(());
        }
        if action != Action::Use {
            // A request that starts the daemon comes before the daemon is on the bus.
            let mut trying = self.trying.subscribe();
            let _ = tokio::time::timeout(ANSWER_MAX, trying.wait_for(|trying| !trying)).await;
        }
        let bus = self
            .system_bus
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let verdict = match bus {
            Some(bus) => ask(&bus, action, subject, interactive).await,
            None => Verdict::Absent,
        };
        let why = match verdict {
            Verdict::Yes => return Ok(()),
            Verdict::Absent if action == Action::Use => return Ok(()),
            Verdict::No => "polkit does not allow it; an administrator can, with a rule for the action",
            // Who has a session of the machine may; this one has none.
            Verdict::Password if action == Action::Use => {
                "it takes a session at the machine, membership in the group hyprstream, or an administrator's password; \
                 at the socket, `hyp` asks without"
            }
            Verdict::Password => {
                "it takes an administrator's password; use sudo, or a program that lets polkit ask for it"
            }
            Verdict::Absent => "without polkit only the superuser may; use sudo",
        };
        Err(denied(action, why))
    }
}

fn denied(action: Action, why: &str) -> Failure {
    let message = format!("you may not {} ({}): {why}", action.in_words(), action.id());
    Failure::new(ErrorCode::Denied, message)
}

type PolkitSubject = (&'static str, HashMap<&'static str, Variant<'static>>);

fn in_polkit_terms(subject: &Subject) -> Option<PolkitSubject> {
    match subject {
        Subject::BusName { name, .. } => {
            let details = [("name", Variant::new(name.clone()))];
            Some(("system-bus-name", HashMap::from(details)))
        }
        Subject::Token { .. } => None,
        Subject::Process { pid, uid } => {
            let pid = (*pid)?;
            let details = [
                ("pid", Variant::new(pid)),
                // Where other users' processes are hidden from us, polkit looks for itself; the uid is the kernel's word.
                ("start-time", Variant::new(start_time(pid).unwrap_or(0))),
                ("uid", Variant::new(i32::try_from(*uid).ok()?)),
            ];
            Some(("unix-process", HashMap::from(details)))
        }
    }
}

/// When a process started, in ticks since boot. It is read at the check, so it holds for the time of the check alone; who
/// had the id before, the uid tells, which is the kernel's word from when the peer connected.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    started(&stat)
}

/// The 22nd field; the second is the program's name in brackets, which may have anything in it.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

async fn ask(bus: &Connection, action: Action, subject: &Subject, interactive: bool) -> Verdict {
    let Some(subject) = in_polkit_terms(subject) else {
        return Verdict::No;
    };
    let (flags, limit) = match interactive {
        true => (ALLOW_INTERACTION, PERSON_MAX),
        false => (0, ANSWER_MAX),
    };
    let details: HashMap<&str, &str> = HashMap::new();
    let body = (subject, action.id(), details, flags, "");
    let asking = bus.call_method(
        Some("org.freedesktop.PolicyKit1"),
        "/org/freedesktop/PolicyKit1/Authority",
        Some("org.freedesktop.PolicyKit1.Authority"),
        "CheckAuthorization",
        &body,
    );
    let said = match tokio::time::timeout(limit, asking).await {
        Ok(said) => said,
        Err(_) => {
            tracing::warn!("polkit does not answer; {} is refused", action.id());
            return Verdict::No;
        }
    };
    let reply = said.and_then(|reply| {
        reply
            .body()
            .deserialize::<((bool, bool, HashMap<String, String>),)>()
    });
    match reply {
        Ok(((true, _, _),)) => Verdict::Yes,
        Ok(((false, true, _),)) => Verdict::Password,
        Ok(((false, false, _),)) => Verdict::No,
        Err(error) if is_absent(&error) => Verdict::Absent,
        Err(error) => {
            tracing::warn!("polkit cannot be asked about {}: {error}", action.id());
            Verdict::No
        }
    }
}

/// Nobody has the name, or what would start polkit cannot.
fn is_absent(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(
            **error,
            fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::SpawnExecFailed(_)
                | fdo::Error::SpawnForkFailed(_)
                | fdo::Error::SpawnChildExited(_)
                | fdo::Error::SpawnChildSignaled(_)
                | fdo::Error::SpawnFailed(_)
                | fdo::Error::SpawnFailedToSetup(_)
                | fdo::Error::SpawnConfigInvalid(_)
                | fdo::Error::SpawnServiceNotValid(_)
                | fdo::Error::SpawnServiceNotFound(_)
                | fdo::Error::SpawnPermissionsInvalid(_)
                | fdo::Error::SpawnFileInvalid(_)
        ),
        zbus::Error::MethodError(name, ..) => name.as_str().starts_with("org.freedesktop.systemd1."),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_start_too() {
        assert_eq!(
            started("7 (a) b) 1) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0"),
            Some(4711)
        );
        assert_eq!(started("7 (a"), None);
        let own = start_time(std::process::id()).unwrap();
        assert!(own > 0);
    }

    #[tokio::test]
    async fn without_polkit_others_may_use_and_no_more() {
        let authority = Authority::default();
        let other = Subject::Process {
            pid: Some(std::process::id()),
            uid: own_uid() + 1,
        };
        authority.check(Action::Use, &other, false).await.unwrap();
        for action in [Action::ManageModels, Action::Install, Action::Configure] {
            let error = authority.check(action, &other, false).await.unwrap_err().0;
            assert_eq!(error.code, ErrorCode::Denied);
            assert!(
                error.message.contains(action.id()) && error.message.contains("sudo"),
                "{error:?}"
            );
            let own = Subject::BusName {
                name: ":1.1".into(),
                uid: own_uid(),
            };
            authority.check(action, &own, false).await.unwrap();
        }
    }
}
