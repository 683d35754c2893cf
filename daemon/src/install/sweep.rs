//! Takes away what installs left that were cut off: by a kill, or a power failure. Invariant: a file goes only if it is
//! named as [`super::Incoming`] names its own, belongs to this user, and nobody holds its lock.
use super::DEPTH_MAX;
use rustix::process::geteuid;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A models folder that is somebody's whole disk is not searched through.
const ENTRIES_MAX: usize = 50_000;

/// Looks through the models folders. Blocks.
pub fn sweep(folders: &[PathBuf]) {
    for folder in folders {
        let mut swept = Swept::default();
        swept.folder(folder, 0);
        if swept.files > 0 {
            let mb = swept.bytes / 1_000_000;
            tracing::info!(
                "removed {} files ({mb} MB) of installs that were cut off from {}",
                swept.files,
                folder.display()
            );
        }
    }
}

#[derive(Default)]
struct Swept {
    looked_at: usize,
    files: usize,
    bytes: u64,
}

impl Swept {
    fn folder(&mut self, folder: &Path, depth: usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            self.looked_at += 1;
            if self.looked_at > ENTRIES_MAX {
                return;
            }
            // Links are not followed: nothing is ever installed behind one.
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if kind.is_dir() && depth < DEPTH_MAX && !name.starts_with('.') {
                self.folder(&entry.path(), depth + 1);
            } else if kind.is_file() && is_part(name) {
                self.part(&entry.path());
            }
        }
    }

    fn part(&mut self, path: &Path) {
        let Ok(file) = File::open(path) else { return };
        let Ok(metadata) = file.metadata() else { return };
        // Removed under the lock: who makes a file looks whether it is still there once it is locked.
        if metadata.uid() == geteuid().as_raw() && file.try_lock().is_ok() && fs::remove_file(path).is_ok() {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(metadata.len());
        }
    }
}

/// `.ID-NAME.gguf.part`
fn is_part(name: &str) -> bool {
    let inner = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".gguf.part"));
    let id = inner.and_then(|inner| inner.split_once('-')).map(|(id, _)| id);
    id.is_some_and(|id| id.len() <= 16 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::part::Part;

    #[test]
    fn only_parts_that_nobody_writes_go() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        let gone = [".12ab-m.gguf.part", "a/b/.0f-x-1.gguf.part"];
        let stay = [
            ".12ab-m.gguf",
            "12ab-m.gguf.part",
            ".m.gguf.part",
            ".x.y-m.gguf.part",
            ".12-m.part",
        ];
        for name in gone.iter().chain(&stay) {
            fs::write(at(name), "x").unwrap();
        }
        let written = Part::create(at(".77-n.gguf.part"), folder.path()).unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        sweep(&[folder.path().to_owned(), at("absent")]);
        for name in gone {
            assert!(!at(name).exists(), "{name}");
        }
        for name in stay {
            assert!(at(name).exists(), "{name}");
        }
        assert!(at(".77-n.gguf.part").exists(), "somebody writes it");
        drop(written);
        assert!(!at(".77-n.gguf.part").exists());
    }
}
