//! One model on disk. Invariant: an identity changes whenever the content may have changed, and survives a move.
use hyprstream_model::Summary;
use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Device, inode, size and time of change of a file; of a folder, a hash over those of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub [u8; 32]);

impl Identity {
    /// Of one file.
    pub fn of_file(metadata: &Metadata) -> Identity {
        Identity(hyprstream_model::file_identity(metadata))
    }

    /// Of a folder, from its files in the order of their names.
    pub fn of_folder<'a>(files: impl Iterator<Item = (&'a str, Identity)>) -> Identity {
        let mut hash = blake3::Hasher::new();
        for (name, identity) in files {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(&identity.0);
        }
        Identity(*hash.finalize().as_bytes())
    }
}

/// When the file was last changed.
pub fn modified(metadata: &Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a model's files hold.
#[derive(Clone, Debug)]
pub enum Content {
    /// The header, read and checked.
    Usable(Arc<Summary>),
    /// Why the files cannot be used.
    Broken(String),
}

/// One model.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path below its models folder, without `.gguf`.
    pub name: String,
    /// File or folder.
    pub path: PathBuf,
    /// The files that it consists of.
    pub files: Vec<PathBuf>,
    /// Which content it is, as far as one can tell without reading it.
    pub identity: Identity,
    /// Bytes on disk.
    pub bytes: u64,
    /// Last change.
    pub modified: SystemTime,
    /// Whether it came with hyprstream.
    pub starter: bool,
    /// What it holds.
    pub content: Content,
    /// BLAKE3 of the content in hex, once computed.
    pub digest: Option<String>,
}

impl Entry {
    /// The header, where the model can be used.
    pub fn summary(&self) -> Option<&Arc<Summary>> {
        match &self.content {
            Content::Usable(summary) => Some(summary),
            Content::Broken(_) => None,
        }
    }

    /// Last change in seconds since 1970.
    pub fn modified_s(&self) -> u64 {
        self.modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }
}

/// Two entries are the same when nothing that is shown differs; equal identities imply equal headers.
impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        let content = match (&self.content, &other.content) {
            (Content::Usable(_), Content::Usable(_)) => true,
            (Content::Broken(mine), Content::Broken(theirs)) => mine == theirs,
            _ => false,
        };
        content
            && self.identity == other.identity
            && self.digest == other.digest
            && self.name == other.name
            && self.path == other.path
            && self.starter == other.starter
    }
}
