//! What the catalog remembers over restarts: digests by file identity, with a record of the content. Invariant: the file
//! on disk is whole at any moment, and losing it costs time, never a model.
//!
//! A text file of its own, a line an identity, written anew with each digest and renamed into place: a digest takes seconds to
//! compute, and comes once in a model's life. (An embedded database, sled, kept seven threads that woke every second.)
use super::entry::{Entry, Identity};
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More identities than this are mostly of files that are gone.
const IDENTITIES_MAX: usize = 16_384;
/// No file that was written here is larger.
const FILE_BYTES_MAX: u64 = 64 << 20;
const HEADER: &str = "hyprstream catalog 1";

/// The digests.
pub struct Store {
    path: PathBuf,
    known: Mutex<BTreeMap<Identity, Known>>,
}

struct Known {
    digest: blake3::Hash,
    /// JSON about the content, for people and for what may come to need it.
    record: String,
}

impl Store {
    /// Reads what is in the state folder. A damaged file is put aside, and a new one made.
    pub fn open(state: &Path) -> Store {
        let path = state.join("catalog");
        let known = match read(&path) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let aside = state.join("catalog.damaged");
                tracing::warn!("{path:?} cannot be used ({error}); it is kept as {aside:?} and made again");
                // Without it, it is written over.
                let _ = fs::rename(&path, &aside);
                BTreeMap::new()
            }
        };
        Store {
            path,
            known: Mutex::new(known),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Identity, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a content that was hashed before, in hex.
    pub fn digest(&self, identity: &Identity) -> Option<String> {
        let digest = self.known().get(identity)?.digest;
        Some(digest.to_hex().to_string())
    }

    /// Remembers a digest, and what the content is. It holds for this daemon's life even where it cannot be written.
    pub fn remember(&self, entry: &Entry, digest: &blake3::Hash) {
        let record = json!({
            "name": entry.name,
            "path": entry.path.to_string_lossy(),
            "bytes": entry.bytes,
            "modified_s": entry.modified_s(),
            "arch": entry.summary().map(|s| s.arch.clone()),
            "parameters": entry.summary().map(|s| s.parameters),
            "format": entry.summary().map(|s| s.format.clone()),
        });
        let mut known = self.known();
        if known.len() >= IDENTITIES_MAX {
            known.clear();
        }
        let (digest, record) = (*digest, record.to_string());
        known.insert(entry.identity, Known { digest, record });
        if let Err(error) = write(&self.path, &known) {
            tracing::warn!(
                "the digest of {} cannot be kept ({error}); it is computed anew at the next start",
                entry.name
            );
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Identity, Known>> {
    let file = hyprstream_model::open_regular(path)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(damaged("it is too large"));
    }
    let mut lines = BufReader::new(file.take(FILE_BYTES_MAX)).lines();
    if lines.next().transpose()?.as_deref() != Some(HEADER) {
        return Err(damaged("its first line is not what it should be"));
    }
    let mut known = BTreeMap::new();
    for line in lines {
        let (identity, entry) = parse(&line?).ok_or_else(|| damaged("a line makes no sense"))?;
        known.insert(identity, entry);
    }
    Ok(known)
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// `IDENTITY DIGEST RECORD`, the first two in hex.
fn parse(line: &str) -> Option<(Identity, Known)> {
    let (identity, rest) = line.split_once(' ')?;
    let (digest, record) = rest.split_once(' ')?;
    let identity = Identity(*blake3::Hash::from_hex(identity).ok()?.as_bytes());
    let digest = blake3::Hash::from_hex(digest).ok()?;
    // A line that was cut short ends within its record.
    serde_json::from_str::<IgnoredAny>(record).ok()?;
    let record = record.to_owned();
    Some((identity, Known { digest, record }))
}

fn write(path: &Path, known: &BTreeMap<Identity, Known>) -> io::Result<()> {
    let mut text = format!("{HEADER}\n");
    for (identity, Known { digest, record }) in known {
        let identity = blake3::Hash::from(identity.0);
        text += &format!("{} {} {record}\n", identity.to_hex(), digest.to_hex());
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a file takes room that somebody else may need.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    fs::rename(&new, path)?;
    match path.parent() {
        // The new name must survive a power failure too.
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
