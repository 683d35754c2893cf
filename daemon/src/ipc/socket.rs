//! The Unix socket: handed over by systemd, or made here. Invariant: a live daemon's socket is never taken away, and a
//! dead one's never stands in the way.
use crate::config::own_uid;
use interprocess::local_socket::tokio::Listener;
use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName};
use listenfd::ListenFd;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const ACTIVATED: &str = "the socket that systemd handed over cannot be used";

/// The listening socket.
pub struct Door {
    /// Where connections come from.
    pub listener: Listener,
    /// What to remove at the end: path, device and inode. `None` when the socket is systemd's.
    own: Option<(PathBuf, (u64, u64))>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("hyprstreamd is already running (pid {pid}) at {}", .path.display())]
    Running {
        /// The socket.
        path: PathBuf,
        /// The other daemon.
        pid: String,
    },
    /// Something that is no socket stands there.
    #[error("{} is there and is not a socket; move it away or give another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The folder belongs to somebody else, who could swap the socket.
    #[error("the folder {} belongs to user {owner}, not to you; give another --socket", .path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The system says no.
    #[error("cannot {what} {}: {source}{}", .path.display(), hint(.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; start it as the system's service, or as your own with --user",
        _ => "",
    }
}

impl Door {
    /// Takes the socket that systemd hands over (`LISTEN_FDS`), else makes one at `path`. `user`: for one user alone.
    pub fn open(path: &Path, user: bool) -> Result<Door, BindError> {
        let system = |what| {
            move |source| BindError::System {
                what,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(listener) = ListenFd::from_env()
            .take_unix_listener(0)
            .map_err(system(ACTIVATED))?
        {
            listener.set_nonblocking(true).map_err(system(ACTIVATED))?;
            let listener =
                interprocess::os::unix::uds_local_socket::tokio::Listener::try_from(OwnedFd::from(listener));
            let listener =
                listener.map_err(|error| system(ACTIVATED)(io::Error::other(error.to_string())))?;
            return Ok(Door {
                listener: Listener::UdSocket(listener),
                own: None,
            });
        }
        make_folder(path, user)?;
        if Door::probe(path)? {
            tracing::info!(
                "{} was left by a daemon that is gone; it is replaced",
                path.display()
            );
            fs::remove_file(path).map_err(system("remove"))?;
        }
        let name = path.to_fs_name::<GenericFilePath>().map_err(system("use"))?;
        let listener = ListenerOptions::new()
            .name(name)
            .reclaim_name(false)
            .create_tokio();
        let listener = listener.map_err(system("listen at"))?;
        let mode = if user { 0o600 } else { 0o660 };
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(system("set the rights of"))?;
        let id = identity(path).map_err(system("look at"))?;
        Ok(Door {
            listener,
            own: Some((path.to_owned(), id)),
        })
    }

    /// Whether the socket was made here, not handed over.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Looks whether somebody is there: an error when a daemon answers, true when its socket is all that is left of it.
    pub fn probe(path: &Path) -> Result<bool, BindError> {
        let system = |what| {
            move |source| BindError::System {
                what,
                path: path.to_owned(),
                source,
            }
        };
        match fs::symlink_metadata(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(system("look at")(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) => {}
        }
        match UnixStream::connect(path) {
            Ok(stream) => {
                let pid = rustix::net::sockopt::socket_peercred(&stream).map_or_else(
                    |_| "unknown".to_owned(),
                    |peer| peer.pid.as_raw_nonzero().to_string(),
                );
                Err(BindError::Running {
                    path: path.to_owned(),
                    pid,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
            Err(error) => Err(system("connect to")(error)),
        }
    }

    /// A way to remove the socket's file, as long as it is still this daemon's.
    pub fn unlinker(&self) -> impl Fn() + Send + 'static {
        let own = self.own.clone();
        move || {
            if let Some((path, id)) = &own
                && identity(path).is_ok_and(|now| now == *id)
            {
                // Gone already is as good.
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn make_folder(path: &Path, user: bool) -> Result<(), BindError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let system = |what| {
        move |source| BindError::System {
            what,
            path: folder.to_owned(),
            source,
        }
    };
    let mode = if user { 0o700 } else { 0o755 };
    let made = !folder.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .map_err(system("make the folder"))?;
    let metadata = fs::symlink_metadata(folder).map_err(system("look at"))?;
    // In /tmp anybody may have made the folder first, and could then put another socket in our place.
    if user
        && !made
        && folder.starts_with("/tmp")
        && folder != Path::new("/tmp")
        && metadata.uid() != own_uid()
    {
        return Err(BindError::ForeignFolder {
            path: folder.to_owned(),
            owner: metadata.uid(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, user: bool) -> Result<Door, BindError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let door = Door::open(path, user);
        drop(guard);
        // The listener must not outlive the runtime that it is registered with.
        std::mem::forget(runtime);
        door
    }

    #[test]
    fn rights_and_removal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/x.sock");
        let door = open(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o700
        );
        door.unlinker()();
        assert!(!path.exists());
        let door = open(&path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        door.unlinker()();
        assert!(path.exists());
        assert!(matches!(open(&path, true), Err(BindError::NotASocket(_))));
    }

    #[test]
    fn a_live_socket_is_respected_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let door = open(&path, true).unwrap();
        match open(&path, true) {
            Err(BindError::Running { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{:?}", other.map(|_| ())),
        }
        drop(door);
        assert!(path.exists());
        open(&path, true).unwrap();
    }
}
