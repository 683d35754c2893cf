//! One daemon for each state folder. Invariant: the lock is the kernel's (flock), so a daemon that dies leaves none.
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A daemon that is just ending is waited for so long.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Held for as long as the state folder is used.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the state folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon uses it.
    #[error("the state folder {} is used by another hyprstreamd (pid {pid}); stop that one, or give another --state", .path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
        /// The other daemon.
        pid: String,
    },
    /// The system says no.
    #[error("the state folder {} cannot be used: {source}; {}", .path.display(), instead(.path, .source))]
    System {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn instead(path: &Path, error: &io::Error) -> String {
    let usual = "check its rights, or give another with --state (or start with --user)";
    crate::fences::advice(path, error).unwrap_or_else(|| usual.to_owned())
}

impl Lock {
    /// Takes the lock of a state folder.
    pub fn take(state: &Path) -> Result<Lock, LockError> {
        Lock::take_within(state, PATIENCE)
    }

    fn take_within(state: &Path, patience: Duration) -> Result<Lock, LockError> {
        let system = |source| LockError::System {
            path: state.to_owned(),
            source,
        };
        let path = state.join("lock");
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut file = options.map_err(system)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < patience => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                    let pid = if known {
                        pid.trim().to_owned()
                    } else {
                        "unknown".to_owned()
                    };
                    return Err(LockError::Taken {
                        path: state.to_owned(),
                        pid,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(system(error)),
            }
        }
        // For the message above only: the lock itself does not depend on it, and a full disk must not keep a daemon from
        // answering.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_for_each_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let error = Lock::take_within(folder.path(), Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(lock);
        Lock::take_within(folder.path(), Duration::ZERO).unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(Lock::take(&missing), Err(LockError::System { .. })));
    }
}
