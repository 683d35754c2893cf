//! A daemon's socket that is there and cannot be used: why, and what to do. Invariant: what may be seen of the socket is told,
//! and nothing is guessed.
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A socket that does not take this user's connection.
#[derive(Debug)]
pub struct Refusal {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// This user may not open it. Group and mode, where they can be seen.
    Denied(Option<(String, u32)>),
    /// Nobody answers there.
    Silent(io::Error),
}

impl Refusal {
    /// What a failed connection means; `None` where there is no socket.
    pub fn new(path: &Path, error: io::Error) -> Option<Self> {
        let why = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => return None,
            ErrorKind::PermissionDenied => Why::Denied(
                fs::metadata(path)
                    .ok()
                    .map(|about| (group_name(about.gid()), about.mode() & 0o7777)),
            ),
            _ => Why::Silent(error),
        };
        Some(Refusal {
            path: path.to_owned(),
            why,
        })
    }

    /// Whether it is this user who is refused.
    pub fn is_denied(&self) -> bool {
        matches!(self.why, Why::Denied(_))
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match &self.why {
            Why::Denied(Some((group, mode))) if mode & 0o060 == 0o060 => {
                Some(format!("ask the administrator to add you to the group {group}"))
            }
            Why::Denied(_) => None,
            Why::Silent(_) => Some("see `systemctl status hyprstreamd`".to_owned()),
        }
    }

    /// What to know where another daemon is used in its place.
    pub fn remark(&self) -> String {
        let path = self.path.display();
        let why = match &self.why {
            Why::Denied(Some((group, mode))) => {
                format!("may not be used by you (group {group}, mode {mode:03o})")
            }
            Why::Denied(None) => "may not be used by you (its folder is closed)".to_owned(),
            Why::Silent(error) => format!("does not answer ({error})"),
        };
        format!("the system daemon at {path} {why}; using your own")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match &self.why {
            Why::Denied(Some((group, mode))) => {
                write!(
                    f,
                    "you may not use the socket {path}: it belongs to the group {group}, mode {mode:03o}"
                )
            }
            Why::Denied(None) => write!(
                f,
                "you may not use the socket {path}: its folder is closed to you"
            ),
            Why::Silent(error) => write!(f, "nobody answers at the socket {path}: {error}"),
        }
    }
}

fn group_name(gid: u32) -> String {
    match nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_is_there_refuses() {
        let refusal = |kind: ErrorKind| Refusal::new(Path::new("/no/such/sock"), kind.into());
        assert!(refusal(ErrorKind::NotFound).is_none());
        let denied = refusal(ErrorKind::PermissionDenied).unwrap();
        assert!(denied.is_denied());
        assert_eq!(
            denied.remark(),
            "the system daemon at /no/such/sock may not be used by you (its folder is closed); using your own"
        );
        let silent = refusal(ErrorKind::ConnectionRefused).unwrap();
        assert!(!silent.is_denied());
        assert!(silent.remark().contains("does not answer"), "{}", silent.remark());
    }

    #[test]
    fn group_and_mode_are_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = Refusal::new(file.path(), ErrorKind::PermissionDenied.into()).unwrap();
        assert!(refusal.to_string().ends_with(", mode 600"), "{refusal}");
        assert!(refusal.remark().contains(", mode 600); using your own"));
        assert_eq!(refusal.hint(), None);
    }
}
