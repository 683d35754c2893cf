//! Hashes the content of models in the background. Invariant: it never delays the list of models, and yields to
//! requests: lowest priority, and asleep while the engine runs.
use super::Shared;
use super::entry::{Entry, Identity};
use super::store::Store;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// Plain reads, not a map: a file that is cut short while it is read gives an error, not a signal.
const CHUNK: usize = 1 << 20;
const LOWEST_PRIORITY: i32 = 19;

/// Hashes whatever has no digest yet, smallest first, until the catalog stops.
pub fn run(shared: &Shared, store: &Store, busy: &dyn Fn() -> bool) {
    // On Linux this is the calling thread's own priority. Refused: hash at normal priority, still between requests.
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
    let mut given_up = HashSet::new();
    loop {
        let seen = shared.inbox.edition();
        while let Some(entry) = next(shared, &given_up) {
            match hash(shared, &entry, busy) {
                Ok(Some(digest)) => {
                    store.remember(&entry, &digest);
                    shared.inbox.changed();
                }
                Ok(None) => return,
                Err(_) => {}
            }
            // Hashed, or unreadable: either way not again under this identity.
            given_up.insert(entry.identity);
        }
        if !shared.inbox.await_edition(seen) {
            return;
        }
    }
}

fn next(shared: &Shared, given_up: &HashSet<Identity>) -> Option<Arc<Entry>> {
    let snapshot = shared.snapshot();
    let open = snapshot
        .entries
        .values()
        .filter(|entry| entry.digest.is_none() && entry.summary().is_some());
    open.filter(|entry| !given_up.contains(&entry.identity))
        .min_by_key(|entry| entry.bytes)
        .cloned()
}

/// `None`: the catalog stops.
fn hash(shared: &Shared, entry: &Entry, busy: &dyn Fn() -> bool) -> io::Result<Option<blake3::Hash>> {
    let mut hash = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK];
    for path in &entry.files {
        if entry.files.len() > 1 {
            // A folder: the names of its files belong to its content.
            hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(&[0]);
        }
        let mut file = File::open(path)?;
        loop {
            while busy() {
                if !shared.inbox.rest(Duration::from_millis(100)) {
                    return Ok(None);
                }
            }
            if shared.inbox.stopped() {
                return Ok(None);
            }
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            hash.update(chunk.get(..length).unwrap_or_default());
        }
    }
    let hash = hash.finalize();
    // A file that changed under the hash is another content; the walk sees it too.
    let snapshot = shared.snapshot();
    let same = snapshot
        .entries
        .values()
        .any(|now| now.identity == entry.identity);
    if same {
        Ok(Some(hash))
    } else {
        Err(io::Error::other("it changed while it was read"))
    }
}
