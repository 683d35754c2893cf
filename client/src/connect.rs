//! Finds the daemon: the named socket alone, else the system's, else the user's own, which is started if need be.
//! Invariant: a socket that another user could have planted is never spoken to.
use crate::paths::{self, FolderError};
use crate::refusal::Refusal;
use crate::start::{self, StartError};
use crate::start_log;
use hyprstream_protocol::SYSTEM_SOCKET;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The environment variable that names a socket.
pub const SOCKET_VARIABLE: &str = "HYPRSTREAM_SOCKET";

/// The socket that the environment names.
pub fn named_by_environment() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Why no daemon can be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The named socket does not answer.
    #[error("no daemon answers at {path}: {source}")]
    Named {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The named socket is not for this user.
    #[error("{}", .0)]
    Refused(Refusal),
    /// Nothing runs and nothing may be started.
    #[error("no daemon answers at {SYSTEM_SOCKET} or {user}, and none may be started{}", also(.refused))]
    NotRunning {
        /// The user's socket.
        user: PathBuf,
        /// The system daemon's socket is there, but cannot be used.
        refused: Option<Refusal>,
    },
    /// The user's socket cannot be trusted.
    #[error("the user's own socket is not safe to use: {source}{}", also(.refused))]
    Unsafe {
        /// What is wrong.
        source: FolderError,
        /// The system daemon's socket is there, but cannot be used.
        refused: Option<Refusal>,
    },
    /// The user's socket is there, but broken.
    #[error("the user's own daemon cannot be reached at {path}: {source}{}", also(.refused))]
    User {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// The system daemon's socket is there, but cannot be used.
        refused: Option<Refusal>,
    },
    /// The user's own daemon did not come up.
    #[error("{source}{}", also(.refused))]
    Start {
        /// Why.
        source: StartError,
        /// The system daemon's socket is there, but cannot be used.
        refused: Option<Refusal>,
    },
}

impl ConnectError {
    /// Whether it is this user who is refused, and nothing else could be tried.
    pub fn is_denied(&self) -> bool {
        match self {
            ConnectError::Refused(refusal) => refusal.is_denied(),
            ConnectError::NotRunning { refused, .. } => refused.as_ref().is_some_and(Refusal::is_denied),
            ConnectError::User { source, .. } => source.kind() == ErrorKind::PermissionDenied,
            ConnectError::Named { .. } | ConnectError::Unsafe { .. } | ConnectError::Start { .. } => false,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ConnectError::Named { source, .. }
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                Some("start hyprstreamd there, or leave --socket and $HYPRSTREAM_SOCKET away".to_owned())
            }
            ConnectError::Refused(refusal) => refusal.hint(),
            ConnectError::NotRunning { refused, .. } => refused
                .as_ref()
                .and_then(Refusal::hint)
                .or_else(|| Some("without --no-start, hyp starts one of your own".to_owned())),
            ConnectError::Unsafe { refused, .. } | ConnectError::User { refused, .. } => {
                refused.as_ref().and_then(Refusal::hint)
            }
            ConnectError::Start { source, refused } => {
                source.hint().or_else(|| refused.as_ref().and_then(Refusal::hint))
            }
            ConnectError::Named { .. } => None,
        }
    }
}

fn also(refused: &Option<Refusal>) -> String {
    refused
        .as_ref()
        .map(|refusal| format!(" (and {refusal})"))
        .unwrap_or_default()
}

/// How the daemon was found; it decides where to look when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By flag or environment.
    Named,
    /// The system's.
    System,
    /// The user's own.
    Own,
    /// The user's own, by the unit that hyp has just started.
    Unit,
}

impl Via {
    /// Where to look when the connection breaks off.
    pub fn hint(self) -> String {
        let text = match self {
            Via::Named => {
                "see whether it is running with `hyp status`, and why it stopped in its journal or log"
            }
            Via::System => "see `systemctl status hyprstreamd` and `journalctl -u hyprstreamd`",
            Via::Own => match paths::state_folder() {
                Some(folder) => {
                    let log = folder.join(start_log::NAME);
                    return format!(
                        "its log is {}, or in `journalctl --user -u hyprstreamd`",
                        log.display()
                    );
                }
                None => "see `journalctl --user -u hyprstreamd`",
            },
            Via::Unit => start::UNIT_HINT,
        };
        text.to_owned()
    }
}

/// A connection, and what it leads to.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: UnixStream,
    /// The socket.
    pub path: PathBuf,
    /// How it was found.
    pub via: Via,
    /// The system daemon that could not be used in its place.
    pub refused: Option<Refusal>,
}

/// Says what is being waited for.
pub type Say<'a> = &'a dyn Fn(&str);

/// A connection to the daemon that this user should speak to: the named one alone, else the first that is found. `starting`:
/// where none runs, the user's own may be started, and this tells of it.
pub fn open(name: Option<PathBuf>, starting: Option<Say<'_>>) -> Result<Opened, ConnectError> {
    match name {
        Some(path) => named(path),
        None => search(starting),
    }
}

fn named(path: PathBuf) -> Result<Opened, ConnectError> {
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Opened {
            stream,
            path,
            via: Via::Named,
            refused: None,
        }),
        Err(source) if source.kind() != ErrorKind::PermissionDenied => {
            Err(ConnectError::Named { path, source })
        }
        Err(source) => match Refusal::new(&path, source) {
            Some(refusal) => Err(ConnectError::Refused(refusal)),
            None => Err(ConnectError::Named {
                path,
                source: ErrorKind::PermissionDenied.into(),
            }),
        },
    }
}

fn search(starting: Option<Say<'_>>) -> Result<Opened, ConnectError> {
    let system = Path::new(SYSTEM_SOCKET);
    let refused = match UnixStream::connect(system) {
        Ok(stream) => {
            return Ok(Opened {
                stream,
                path: system.to_owned(),
                via: Via::System,
                refused: None,
            });
        }
        // Not an end: the user's own daemon needs nobody's leave. It is told in either case.
        Err(error) => Refusal::new(system, error),
    };
    let path = paths::user_socket();
    match user_daemon(&path) {
        Ok(Some(stream)) => {
            return Ok(Opened {
                stream,
                path,
                via: Via::Own,
                refused,
            });
        }
        Ok(None) => {}
        Err(UserError::Unsafe(source)) => return Err(ConnectError::Unsafe { source, refused }),
        Err(UserError::Io(source)) => {
            return Err(ConnectError::User {
                path,
                source,
                refused,
            });
        }
    }
    let Some(say) = starting else {
        return Err(ConnectError::NotRunning { user: path, refused });
    };
    match start::start(&path, say) {
        Ok((stream, via)) => Ok(Opened {
            stream,
            path,
            via,
            refused,
        }),
        Err(source) => Err(ConnectError::Start { source, refused }),
    }
}

/// Why the user's own socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Its folder cannot be trusted.
    #[error(transparent)]
    Unsafe(#[from] FolderError),
    /// It is there, but cannot be opened.
    #[error(transparent)]
    Io(io::Error),
}

/// A connection to the user's own daemon; `None` where none runs.
pub fn user_daemon(socket: &Path) -> Result<Option<UnixStream>, UserError> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    if !paths::check_folder(folder)? {
        return Ok(None);
    }
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(UserError::Io(error)),
    }
}
