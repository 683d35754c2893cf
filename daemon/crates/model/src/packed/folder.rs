//! Files in the cache folder: their names, temporary ones, and what is removed when. Invariant: only names of this module's
//! making are ever touched, and a file that another process is writing stays.

use super::table::{HEAD, Head, PackedSource};
use crate::map::{Map, open_regular};
use hyprstream_kernels::PACKED_LAYOUT;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// End of the name of packed weights: `DIGEST.LAYOUT.packed`.
const KEPT: &str = ".packed";
/// End of the name of a file that is being written.
const WRITTEN: &str = ".packing";

/// A file of packed weights, as far as its name and first bytes say.
pub(super) struct Found {
    pub path: PathBuf,
    pub source: PackedSource,
}

/// What is in the folder.
#[derive(Default)]
pub(super) struct Listing {
    /// Of this layout.
    pub found: Vec<Found>,
    /// Named like one of ours and nothing of the kind.
    pub broken: Vec<PathBuf>,
}

/// The name of a file made from this content.
pub(super) fn name_of(source: &PackedSource) -> String {
    let digest = blake3::Hash::from(source.digest).to_hex();
    format!("{digest}.{PACKED_LAYOUT}{KEPT}")
}

fn has_end(path: &Path, end: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(end.as_bytes()))
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Reads the first bytes of every file.
pub(super) fn list(folder: &Path) -> Listing {
    let mut listing = Listing::default();
    let ours = format!(".{PACKED_LAYOUT}{KEPT}");
    for path in paths(folder).into_iter().filter(|path| has_end(path, &ours)) {
        match head_of(&path) {
            Ok(Some(head)) => listing.found.push(Found {
                path,
                source: head.source,
            }),
            Ok(None) => listing.broken.push(path),
            Err(_) => {}
        }
    }
    listing
}

/// `None` if it is not one.
fn head_of(path: &Path) -> io::Result<Option<Head>> {
    let mut file = open_regular(path)?;
    let mut bytes = [0; HEAD];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Head::read(&bytes).filter(|head| head.layout == PACKED_LAYOUT)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Remembers that a file was used. Only the time of access: its time of change says whether its content is the same.
pub(super) fn mark_used(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
    }
}

/// A file that goes with the value, unless it is published. It is locked while it lives.
pub(super) struct Temporary {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temporary {
    pub fn create(folder: &Path) -> io::Result<Temporary> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".{}-{count}{WRITTEN}", std::process::id()));
            let mut options = OpenOptions::new();
            match options
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&path)
            {
                Ok(file) => {
                    let temporary = Temporary {
                        path,
                        file,
                        published: false,
                    };
                    temporary.file.lock()?;
                    // Who sweeps may have come in before the lock.
                    if temporary.file.metadata()?.nlink() > 0 {
                        return Ok(temporary);
                    }
                }
                // Left behind by another process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn map(&self) -> io::Result<Map> {
        Ok(Map::open(&self.path)?)
    }

    /// Gives the file its name. It is durable already; the name is when this returns.
    pub fn publish(mut self, name: &str) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::rename(&self.path, folder.join(name))?;
        self.published = true;
        File::open(folder)?.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What [`tidy`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Files.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
}

/// Removes what writers that died have left, and packed weights that `lives` does not know, as long as those take more than
/// `gone_bytes_max`: those used longest ago first. Models that come back within that find their weights packed.
pub fn tidy(folder: &Path, lives: &dyn Fn(&PackedSource) -> bool, gone_bytes_max: u64) -> Tidied {
    let mut tidied = Tidied::default();
    let mut gone = Vec::new();
    for path in paths(folder) {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if is_written(&path) && metadata.is_file() {
            remove_abandoned(&path, &mut tidied);
        }
        if has_end(&path, KEPT) && metadata.is_file() {
            let head = head_of(&path).ok().flatten();
            if !head.is_some_and(|head| lives(&head.source)) {
                let used = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
                gone.push((used, path, metadata.len()));
            }
        }
    }
    let mut total = gone
        .iter()
        .fold(0u64, |sum, (_, _, bytes)| sum.saturating_add(*bytes));
    gone.sort();
    for (_, path, bytes) in gone {
        if total <= gone_bytes_max {
            break;
        }
        remove(&path, bytes, &mut tidied);
        total -= bytes;
    }
    tidied
}

/// Removes what writers that died have left, and nothing else.
pub fn sweep(folder: &Path) -> Tidied {
    tidy(folder, &|_| true, u64::MAX)
}

/// `.PROCESS-COUNT.packing`.
fn is_written(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let numbers = name.and_then(|name| name.strip_prefix('.')?.strip_suffix(WRITTEN)?.split_once('-'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, count)| digits(process) && digits(count))
}

/// Its writer holds a lock for as long as it lives. Removed under the lock, so that no writer gets a file that is gone.
fn remove_abandoned(path: &Path, tidied: &mut Tidied) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        remove(path, bytes, tidied);
    }
}

fn remove(path: &Path, bytes: u64, tidied: &mut Tidied) {
    if fs::remove_file(path).is_ok() {
        tidied.files += 1;
        tidied.bytes = tidied.bytes.saturating_add(bytes);
    }
}
