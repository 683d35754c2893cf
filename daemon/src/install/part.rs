//! The file that a model is written to before it has its name. Invariant: it is locked while somebody writes it, and goes
//! with the value.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file under way.
pub struct Part(Arc<Place>);

struct Place {
    file: File,
    path: PathBuf,
}

/// Takes a file away whose writer hangs.
pub struct Undo(Arc<Place>);

impl Part {
    /// A new file.
    pub fn create(path: PathBuf) -> io::Result<Part> {
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o644).open(&path)?;
            // Where a file system has no locks, nothing is swept either.
            let _ = file.lock();
            // Who sweeps may have come in before the lock.
            if file.metadata()?.nlink() > 0 {
                return Ok(Part(Arc::new(Place { file, path })));
            }
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A way to take it away from under its writer.
    pub fn undo(&self) -> Undo {
        Undo(Arc::clone(&self.0))
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
        let _ = fs::remove_file(&self.0.path);
    }
}
