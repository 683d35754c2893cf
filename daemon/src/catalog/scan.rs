//! Walks the models folders and says what may be a model. Invariant: it opens nothing but folders, follows links
//! without going round in circles, and its work is bounded.
use super::entry::{Identity, modified};
use super::names;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How deep below a models folder models may lie.
pub const DEPTH_MAX: usize = 4;
/// Folders and files looked at in one walk; a models folder that is somebody's whole disk is not searched through.
const ENTRIES_MAX: usize = 50_000;

/// One folder that is searched.
#[derive(Clone, Debug)]
pub struct Root {
    /// The folder.
    pub path: PathBuf,
    /// Whether it holds what came with hyprstream.
    pub starter: bool,
}

/// Something that looks like a model from outside.
#[derive(Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// File or folder, as it was found.
    pub path: PathBuf,
    /// The files that it consists of, with links resolved.
    pub files: Vec<PathBuf>,
    /// Which content it is.
    pub identity: Identity,
    /// Time of the last change of anything, rights included, in nanoseconds.
    pub ctime_ns: i128,
    /// Bytes of its files.
    pub bytes: u64,
    /// Last change.
    pub modified: SystemTime,
    /// Whether it came with hyprstream.
    pub starter: bool,
    /// Known to be unusable without a look inside.
    pub broken: Option<String>,
}

/// What one walk found.
#[derive(Default)]
pub struct Found {
    /// In the order of folders and paths.
    pub candidates: Vec<Candidate>,
    /// Device and inode of all that must be watched, by path with links resolved.
    pub watched: BTreeMap<PathBuf, (u64, u64)>,
    /// A folder that should be searched is not there.
    pub root_missing: bool,
    /// Something in it may change without a word from the kernel.
    pub silent: bool,
}

/// Walks all folders.
pub fn scan(roots: &[Root]) -> Found {
    let mut found = Found::default();
    for root in roots {
        let mut walk = Walk {
            root,
            found: &mut found,
            looked_at: 0,
            ancestors: Vec::new(),
        };
        if !walk.folder(&root.path, 0) {
            found.root_missing |= !root.starter;
        }
    }
    found
}

/// File systems whose changes the kernel tells all of: nobody else writes to them.
const LOCAL: [i64; 9] = [
    0xef53,      // ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlay
    0x7371_7368, // squashfs
];

fn on_local_disk(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|system| LOCAL.contains(&system.f_type))
}

struct Walk<'a> {
    root: &'a Root,
    found: &'a mut Found,
    looked_at: usize,
    ancestors: Vec<(u64, u64)>,
}

struct Item {
    path: PathBuf,
    metadata: Metadata,
}

impl Walk<'_> {
    /// Reads one folder and what is below; false when it cannot be read.
    fn folder(&mut self, path: &Path, depth: usize) -> bool {
        let Ok(metadata) = fs::metadata(path) else {
            return false;
        };
        let id = (metadata.dev(), metadata.ino());
        if !metadata.is_dir() || self.ancestors.contains(&id) {
            return false;
        }
        let (Ok(real), Ok(entries)) = (path.canonicalize(), fs::read_dir(path)) else {
            return false;
        };
        self.found.watched.insert(real, id);
        self.found.silent |= !on_local_disk(path);
        let mut items = Vec::new();
        for entry in entries.flatten() {
            self.looked_at += 1;
            if self.looked_at > ENTRIES_MAX {
                break;
            }
            // Hidden files are other programs' own: caches, and copies under way.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.found.silent |= entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(metadata) => items.push(Item { path, metadata }),
                Err(error) => self.dangling(&path, &error),
            }
        }
        items.sort_by(|a, b| a.path.cmp(&b.path));
        self.safetensors(path, &items);
        for item in &items {
            if item.metadata.is_file() && ends_with(&item.path, ".gguf") {
                self.gguf(item);
            }
        }
        if depth < DEPTH_MAX {
            self.ancestors.push(id);
            for item in items.iter().filter(|item| item.metadata.is_dir()) {
                self.folder(&item.path, depth + 1);
            }
            self.ancestors.pop();
        }
        true
    }

    fn name(&self, path: &Path) -> Option<String> {
        let below = match path.strip_prefix(&self.root.path) {
            // The models folder is itself a model: it is called what the folder is called.
            Ok(below) if below.as_os_str().is_empty() => Path::new(path.file_name()?),
            Ok(below) => below,
            Err(_) => return None,
        };
        match names::from_path(below) {
            Ok(name) => Some(name),
            Err(why) => {
                super::settle::warn_once(path, why);
                None
            }
        }
    }

    fn gguf(&mut self, item: &Item) {
        let Some(name) = self.name(&item.path) else { return };
        let Ok(real) = item.path.canonicalize() else {
            return;
        };
        self.watch_target(&item.path, &real, &item.metadata);
        self.found.candidates.push(Candidate {
            name,
            path: item.path.clone(),
            files: vec![real],
            identity: Identity::of_file(&item.metadata),
            ctime_ns: ctime_ns(&item.metadata),
            bytes: item.metadata.len(),
            modified: modified(&item.metadata),
            starter: self.root.starter,
            broken: None,
        });
    }

    /// A folder with `config.json` and safetensors files is one model.
    fn safetensors(&mut self, folder: &Path, items: &[Item]) {
        let has = |end: &str| {
            items
                .iter()
                .any(|item| item.metadata.is_file() && ends_with(&item.path, end))
        };
        let has_config = items
            .iter()
            .any(|item| item.path.file_name().is_some_and(|n| n == "config.json"));
        if !has_config || !(has(".safetensors") || has(".safetensors.index.json")) {
            return;
        }
        let Some(name) = self.name(folder) else { return };
        let parts: Vec<&Item> = items
            .iter()
            .filter(|item| item.metadata.is_file() && is_part(&item.path))
            .collect();
        let mut files = Vec::new();
        for part in &parts {
            let Ok(real) = part.path.canonicalize() else {
                return;
            };
            self.watch_target(&part.path, &real, &part.metadata);
            files.push(real);
        }
        let named = parts.iter().filter_map(|part| {
            Some((
                part.path.file_name()?.to_str()?,
                Identity::of_file(&part.metadata),
            ))
        });
        self.found.candidates.push(Candidate {
            name,
            path: folder.to_owned(),
            identity: Identity::of_folder(named),
            ctime_ns: parts
                .iter()
                .map(|part| ctime_ns(&part.metadata))
                .max()
                .unwrap_or(0),
            bytes: parts
                .iter()
                .fold(0, |sum, part| sum.saturating_add(part.metadata.len())),
            modified: parts
                .iter()
                .map(|part| modified(&part.metadata))
                .max()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            starter: self.root.starter,
            broken: None,
            files,
        });
    }

    /// A link's target tells of its changes only when it is watched itself.
    fn watch_target(&mut self, path: &Path, real: &Path, metadata: &Metadata) {
        if path.is_symlink() {
            self.found
                .watched
                .insert(real.to_owned(), (metadata.dev(), metadata.ino()));
        }
    }

    fn dangling(&mut self, path: &Path, error: &std::io::Error) {
        let (true, Ok(target)) = (ends_with(path, ".gguf"), fs::read_link(path)) else {
            return;
        };
        let Some(name) = self.name(path) else { return };
        let why = if error.kind() == std::io::ErrorKind::NotFound {
            "which is not there".to_owned()
        } else if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            "which leads back to it: a loop of links".to_owned()
        } else {
            format!("which cannot be read: {error}")
        };
        self.found.candidates.push(Candidate {
            name,
            path: path.to_owned(),
            files: Vec::new(),
            identity: Identity([0; 32]),
            ctime_ns: 0,
            bytes: 0,
            modified: SystemTime::UNIX_EPOCH,
            starter: self.root.starter,
            broken: Some(format!("it is a link to {}, {why}", target.display())),
        });
    }
}

fn ctime_ns(metadata: &Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

fn ends_with(path: &Path, end: &str) -> bool {
    let name = path
        .file_name()
        .map(|name| name.as_encoded_bytes())
        .unwrap_or_default();
    let tail = name.len().checked_sub(end.len()).and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
}

/// The files of the model that a folder is, and which content they are.
pub fn parts_of(folder: &Path) -> std::io::Result<(Vec<PathBuf>, Identity)> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || !is_part(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => parts.push((path, Identity::of_file(&metadata))),
            _ => {}
        }
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let named = parts
        .iter()
        .filter_map(|(path, identity)| Some((path.file_name()?.to_str()?, *identity)));
    let identity = Identity::of_folder(named);
    Ok((parts.into_iter().map(|(path, _)| path).collect(), identity))
}

/// Files whose change makes a folder another model.
fn is_part(path: &Path) -> bool {
    [".safetensors", ".json", ".jinja", ".model"]
        .iter()
        .any(|end| ends_with(path, end))
}
