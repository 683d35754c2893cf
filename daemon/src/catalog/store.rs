//! What the catalog remembers over restarts: digests by file identity, and a record by digest. Invariant: losing it
//! costs time, never a model, so a damaged database is put aside and made again.
use super::entry::{Entry, Identity};
use serde_json::json;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// More identities than this are mostly of files that are gone.
const IDENTITIES_MAX: usize = 16_384;

/// The database, or nothing where it cannot be had.
pub struct Store {
    trees: Option<Trees>,
}

struct Trees {
    /// [`Identity`] → BLAKE3, 32 bytes.
    digests: sled::Tree,
    /// BLAKE3 in hex → JSON about the content.
    contents: sled::Tree,
}

impl Store {
    /// Opens the database below the state folder.
    pub fn open(state: &Path) -> Store {
        let path = state.join("catalog.sled");
        let trees = open(&path).or_else(|why| {
            let aside = state.join("catalog.sled.damaged");
            tracing::warn!(
                "the catalog in {path:?} is damaged ({why}); it is kept as {aside:?} and made again"
            );
            let _ = fs::remove_dir_all(&aside);
            fs::rename(&path, &aside).map_err(|error| error.to_string())?;
            open(&path)
        });
        if let Err(why) = &trees {
            tracing::warn!("{path:?} cannot be used ({why}); digests are computed anew at each start");
        }
        Store { trees: trees.ok() }
    }

    /// The digest of a content that was hashed before, in hex.
    pub fn digest(&self, identity: &Identity) -> Option<String> {
        let found = self.trees.as_ref()?.digests.get(identity.0).ok()??;
        let bytes: [u8; 32] = found.as_ref().try_into().ok()?;
        Some(blake3::Hash::from(bytes).to_hex().to_string())
    }

    /// Remembers a digest, and what the content is. False when nothing can be remembered.
    pub fn remember(&self, entry: &Entry, digest: &blake3::Hash) -> bool {
        let Some(trees) = &self.trees else { return false };
        let record = json!({
            "name": entry.name,
            "path": entry.path.to_string_lossy(),
            "bytes": entry.bytes,
            "modified_s": entry.modified_s(),
            "arch": entry.summary().map(|s| s.arch.clone()),
            "parameters": entry.summary().map(|s| s.parameters),
            "format": entry.summary().map(|s| s.format.clone()),
        });
        let kept = trees
            .contents
            .insert(digest.to_hex().as_bytes(), record.to_string().into_bytes())
            .and_then(|_| trees.digests.insert(entry.identity.0, digest.as_bytes()))
            .and_then(|_| trees.digests.flush());
        if let Err(error) = &kept {
            tracing::warn!("the digest of {} cannot be kept: {error}", entry.name);
        }
        kept.is_ok()
    }
}

fn open(path: &Path) -> Result<Trees, String> {
    // sled 0.34 panics on some damaged files instead of saying so.
    catch_unwind(AssertUnwindSafe(|| open_unguarded(path))).unwrap_or_else(|_| Err("sled gave up".to_owned()))
}

fn open_unguarded(path: &Path) -> Result<Trees, String> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(4 << 20)
        .flush_every_ms(Some(2_000));
    let database = config.open().map_err(|error| error.to_string())?;
    let tree = |name| database.open_tree(name).map_err(|error| error.to_string());
    let trees = Trees {
        digests: tree("digests")?,
        contents: tree("contents")?,
    };
    if trees.digests.len() > IDENTITIES_MAX {
        trees.digests.clear().map_err(|error| error.to_string())?;
    }
    Ok(trees)
}
