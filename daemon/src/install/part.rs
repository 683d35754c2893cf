//! The file that a model is written to before it has its name. Invariant: it is locked while somebody writes it, and goes
//! with the value, as do the folders that were made for it and hold nothing.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Held while folders are made and a file is put into them, and while folders go: none goes in between.
static FOLDERS: Mutex<()> = Mutex::new(());

/// A file under way.
pub struct Part {
    place: Arc<Place>,
    _folders: Folders,
}

/// Folders that were made here, the outer ones first. Those that are still empty go with the value.
struct Folders(Vec<PathBuf>);

struct Place {
    file: File,
    path: PathBuf,
}

/// Takes a file away whose writer hangs.
pub struct Undo(Arc<Place>);

impl Part {
    /// A new file, in folders that are made where they are not there; those outside of `root` are there to stay.
    pub fn create(path: PathBuf, root: &Path) -> io::Result<Part> {
        loop {
            let mut folders = Folders(Vec::new());
            let opened = {
                let _turn = turn();
                folders.make(path.parent().unwrap_or(root), root).and_then(|()| {
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o644)
                        .open(&path)
                })
            };
            let file = opened?;
            // Where a file system has no locks, nothing is swept either.
            let _ = file.lock();
            // Who sweeps may have come in before the lock.
            if file.metadata()?.nlink() > 0 {
                let place = Arc::new(Place { file, path });
                return Ok(Part {
                    place,
                    _folders: folders,
                });
            }
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.place.file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// A way to take it away from under its writer.
    pub fn undo(&self) -> Undo {
        Undo(Arc::clone(&self.place))
    }
}

impl Undo {
    /// Removes the file and gives its room back at once. Only where it will never get its name.
    pub fn now(self) {
        let _ = fs::remove_file(&self.0.path);
        let _ = self.0.file.set_len(0);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&self.place.path);
    }
}

/// Until it goes, folders are made or removed by its holder alone.
fn turn() -> MutexGuard<'static, ()> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folders {
    /// Makes what lacks of `folder` below `root`.
    fn make(&mut self, folder: &Path, root: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.mode(0o755).recursive(true).create(root)?;
        builder.recursive(false);
        let mut at = root.to_owned();
        for part in folder.strip_prefix(root).unwrap_or(Path::new("")) {
            at.push(part);
            match builder.create(&at) {
                Ok(()) => self.0.push(at.clone()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && at.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        let _turn = turn();
        for folder in self.0.iter().rev() {
            // It holds the model, or something of somebody else's.
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_were_made_go_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let at = |below: &str| root.path().join(below);
        fs::create_dir(at("theirs")).unwrap();
        let part = Part::create(at("theirs/a/b/.7-x.part"), root.path()).unwrap();
        let beside = Part::create(at("theirs/a/.7-y.part"), root.path()).unwrap();
        assert!(at("theirs/a/b/.7-x.part").exists());
        drop(part);
        assert!(at("theirs/a/.7-y.part").exists() && !at("theirs/a/b").exists());
        drop(beside);
        assert!(at("theirs/a").exists(), "it was found there, not made");
        fs::rename(
            Part::create(at("new/.7-x.part"), root.path()).unwrap().path(),
            at("new/x"),
        )
        .unwrap();
        assert!(at("new/x").exists());
        fs::write(at("file"), "").unwrap();
        assert!(Part::create(at("deep/file"), &at("file")).is_err());
    }

    #[test]
    fn a_folder_goes_with_its_last_file_and_under_none() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for name in ["x", "y"] {
                let (path, root) = (root.path().join(format!("a/b/{name}")), root.path());
                scope.spawn(move || (0..500).for_each(|_| drop(Part::create(path.clone(), root).unwrap())));
            }
        });
        assert!(root.path().exists());
    }
}
