//! What to do where a folder cannot be used because the service is fenced in. Invariant: it only words what the system
//! said already.
use crate::lifecycle::is_service;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What the unit hides (`ProtectHome=`).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What to do about an error at a folder of the configuration, where the unit, or how the disk is mounted, is the cause.
pub fn advice(folder: &Path, error: &io::Error) -> Option<String> {
    in_words(folder, error.kind(), is_service())
}

/// Whether a folder cannot be written to for one of these reasons.
pub fn forbidden(folder: &Path) -> Option<String> {
    let error = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).err()?;
    advice(folder, &error.into())
}

fn in_words(folder: &Path, kind: ErrorKind, service: bool) -> Option<String> {
    let hidden = HOMES.iter().any(|home| folder.starts_with(home));
    let place = folder.display();
    let edit = "`systemctl edit hyprstreamd`, write [Service] and";
    match kind {
        ErrorKind::ReadOnlyFilesystem if service => Some(format!(
            "{place} is read-only for the service: {edit} ReadWritePaths={place} there, and restart it"
        )),
        ErrorKind::ReadOnlyFilesystem => {
            Some(format!("{place} is on a file system that is mounted read-only"))
        }
        ErrorKind::PermissionDenied | ErrorKind::NotFound if service && hidden => Some(format!(
            "the service does not see homes: {edit} ProtectHome=read-only and ReadWritePaths={place} there, and restart \
             it; and its user needs the right to every folder on the way"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_is_named_where_the_unit_is_the_cause() {
        let words = |folder, kind, service| in_words(Path::new(folder), kind, service);
        let said = words("/srv/m", ErrorKind::ReadOnlyFilesystem, true).unwrap();
        assert!(
            said.contains("ReadWritePaths=/srv/m") && !said.contains("ProtectHome"),
            "{said}"
        );
        let said = words("/srv/m", ErrorKind::ReadOnlyFilesystem, false).unwrap();
        assert!(
            said.contains("mounted read-only") && !said.contains("systemctl"),
            "{said}"
        );
        for kind in [ErrorKind::PermissionDenied, ErrorKind::NotFound] {
            let said = words("/home/me/models", kind, true).unwrap();
            assert!(said.contains("ProtectHome=read-only"), "{said}");
            assert_eq!(words("/home/me/models", kind, false), None);
            assert_eq!(words("/srv/m", kind, true), None);
        }
        assert_eq!(words("/srv/m", ErrorKind::StorageFull, true), None);
    }

    #[test]
    fn a_folder_that_can_be_written_to_is_not_forbidden() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(forbidden(folder.path()), None);
        assert_eq!(forbidden(&folder.path().join("absent")), None);
    }
}
