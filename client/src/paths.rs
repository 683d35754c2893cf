//! Where a user's files lie. Invariant: a folder that others could have prepared is never trusted.
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why a folder is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be looked at.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link or a file stands where the folder should.
    #[error("{path} is no folder")]
    NotFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("{path} belongs to user {owner}, not to you (user {uid})")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        uid: u32,
    },
    /// Others may write there.
    #[error("{path} can be written by others (mode {mode:04o})")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// The id of the user who runs hyp.
pub fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// The socket of the user's own daemon.
pub fn user_socket() -> PathBuf {
    hyprstream_protocol::user_socket(std::env::var_os("XDG_RUNTIME_DIR").as_deref(), uid())
}

/// Checks that only this user can have put a socket there. `Ok(false)`: the folder does not exist.
pub fn check_folder(path: &Path) -> Result<bool, FolderError> {
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(FolderError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let (path, uid) = (path.to_owned(), uid());
    if !about.is_dir() {
        return Err(FolderError::NotFolder { path });
    }
    if about.uid() != uid {
        return Err(FolderError::Foreign {
            path,
            owner: about.uid(),
            uid,
        });
    }
    if about.mode() & 0o022 != 0 {
        return Err(FolderError::Open {
            path,
            mode: about.mode() & 0o7777,
        });
    }
    Ok(true)
}

/// The user's state folder (history, the daemon's log), made if need be. `None` where there is no home to put it in.
pub fn state_folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = base.join("hyprstream");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .ok()?;
    check_folder(&folder).ok()?.then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn folders_of_others_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("hyprstream");
        assert!(!check_folder(&folder).unwrap());
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(check_folder(&folder).unwrap());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            check_folder(&folder),
            Err(FolderError::Open { mode: 0o770, .. })
        ));
        let link = root.path().join("link");
        symlink(root.path(), &link).unwrap();
        assert!(matches!(check_folder(&link), Err(FolderError::NotFolder { .. })));
        if uid() != 0 {
            assert!(matches!(
                check_folder(Path::new("/")),
                Err(FolderError::Foreign { .. })
            ));
        }
    }
}
