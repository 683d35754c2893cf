//! Finds the daemon: the named socket alone, else the system's, else the user's own, which is started if need be.
//! Invariant: a socket that another user could have planted is never spoken to.
use crate::flags::Global;
use crate::paths::{self, FolderError};
use crate::spinner::Spinner;
use crate::start::{self, StartError};
use hyprstream_protocol::SYSTEM_SOCKET;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

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
    #[error("no daemon answers at {SYSTEM_SOCKET} or {user}, and --no-start forbids starting one{}", also(.refused))]
    NotRunning {
        /// The user's socket.
        user: PathBuf,
        /// The system daemon is there, but not for this user.
        refused: Option<Refusal>,
    },
    /// The user's socket cannot be trusted.
    #[error("the user's own socket is not safe to use: {source}{}", also(.refused))]
    Unsafe {
        /// What is wrong.
        source: FolderError,
        /// The system daemon is there, but not for this user.
        refused: Option<Refusal>,
    },
    /// The user's socket is there, but broken.
    #[error("the user's own daemon cannot be reached at {path}: {source}{}", also(.refused))]
    User {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// The system daemon is there, but not for this user.
        refused: Option<Refusal>,
    },
    /// The user's own daemon did not come up.
    #[error("{source}{}", also(.refused))]
    Start {
        /// Why.
        source: StartError,
        /// The system daemon is there, but not for this user.
        refused: Option<Refusal>,
    },
}

impl ConnectError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ConnectError::Named { source, .. }
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                Some("start hyprstreamd there, or leave --socket and $HYPRSTREAM_SOCKET away".to_owned())
            }
            ConnectError::Refused(refusal) => refusal.hint(),
            ConnectError::NotRunning { refused, .. }
            | ConnectError::Unsafe { refused, .. }
            | ConnectError::User { refused, .. } => refused.as_ref().and_then(Refusal::hint),
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

/// A socket that this user may not open, and who may.
#[derive(Debug)]
pub struct Refusal {
    path: PathBuf,
    /// Group and mode, where they can be seen.
    about: Option<(String, u32)>,
}

impl Refusal {
    fn new(path: &Path) -> Self {
        let about = fs::metadata(path)
            .ok()
            .map(|about| (group_name(about.gid()), about.mode() & 0o7777));
        Refusal {
            path: path.to_owned(),
            about,
        }
    }

    fn hint(&self) -> Option<String> {
        let (group, mode) = self.about.as_ref()?;
        (mode & 0o060 == 0o060).then(|| format!("ask the administrator to add you to the group {group}"))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "you may not use the socket {}", self.path.display())?;
        match &self.about {
            Some((group, mode)) => write!(f, ": it belongs to the group {group}, mode {mode:04o}"),
            None => write!(f, ": its folder is closed to you"),
        }
    }
}

fn group_name(gid: u32) -> String {
    match nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

/// A connection to the daemon that this user should speak to.
pub fn open(flags: &Global, spinner: &Spinner) -> Result<UnixStream, ConnectError> {
    match flags.named_socket() {
        Some(path) => named(&path),
        None => search(flags, spinner),
    }
}

fn named(path: &Path) -> Result<UnixStream, ConnectError> {
    UnixStream::connect(path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => ConnectError::Refused(Refusal::new(path)),
        _ => ConnectError::Named {
            path: path.to_owned(),
            source,
        },
    })
}

fn search(flags: &Global, spinner: &Spinner) -> Result<UnixStream, ConnectError> {
    let system = Path::new(SYSTEM_SOCKET);
    let refused = match UnixStream::connect(system) {
        Ok(stream) => return Ok(stream),
        // Not an end: the user's own daemon needs nobody's leave. It is told if that fails too.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Refusal::new(system)),
        Err(_) => None,
    };
    let user = paths::user_socket();
    match user_daemon(&user) {
        Ok(Some(stream)) => return Ok(stream),
        Ok(None) => {}
        Err(UserError::Unsafe(source)) => return Err(ConnectError::Unsafe { source, refused }),
        Err(UserError::Io(source)) => {
            return Err(ConnectError::User {
                path: user,
                source,
                refused,
            });
        }
    }
    if flags.no_start {
        return Err(ConnectError::NotRunning { user, refused });
    }
    start::start(&user, spinner).map_err(|source| ConnectError::Start { source, refused })
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
