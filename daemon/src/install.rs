//! Puts models into the models folder and takes them out. Invariant: a model appears there whole and checked, by a rename
//! that overwrites nothing, and an install that fails leaves no file or folder behind. Of a daemon that is killed the next start
//! takes the file away; folders that were made for it may stay, empty.
mod part;
mod source;
mod sweep;

pub use part::Undo;
pub use source::{Handed, Source};
pub use sweep::sweep;

use crate::app::App;
use crate::catalog::{Entry, Identity, Unresolved, model_name, parts_of};
use crate::errors::Failure;
use crate::fences;
use crate::jobs::{Ending, Running};
use crate::order::Asker;
use crate::said::said;
use crate::units::show_size;
use hyprstream_protocol::{ErrorBody, ErrorCode, JobKind};
use part::Part;
use rustix::fs::{RenameFlags, fstatvfs, renameat_with};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many are copied at once.
const AT_ONCE_MAX: usize = 2;
/// What is free beyond the file when a copy starts.
const SPARE_BYTES: u64 = 16 << 20;
/// The catalog needs so long at most to see what changed.
const LISTED_MAX: Duration = Duration::from_secs(5);
/// The catalog looks no deeper.
const DEPTH_MAX: usize = 4;

static SLOTS: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE_MAX)));

/// A model on its way into the models folder.
pub struct Incoming {
    part: Part,
    to: PathBuf,
    name: String,
    /// Of its job.
    id: String,
}

/// What an install holds until it is over, whether or not its writer hangs.
pub struct Held {
    job: Running,
    _slot: OwnedSemaphorePermit,
}

impl Held {
    /// The id of its job.
    pub fn id(&self) -> &str {
        self.job.id()
    }

    /// A way to wait for `hyp cancel`.
    pub fn ending(&self) -> Ending {
        self.job.ending()
    }
}

impl Incoming {
    /// Makes room for a model of this name; `bytes` where they are known.
    pub fn begin(
        app: &App,
        asker: &Asker,
        name: &str,
        bytes: Option<u64>,
    ) -> Result<(Incoming, Held), Failure> {
        app.admit()?;
        let slot = Arc::clone(&SLOTS).try_acquire_owned().map_err(|_| {
            let message = format!("{AT_ONCE_MAX} models are being installed already; try again in a moment");
            Failure(ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(2_000))
        })?;
        let name = wanted_name(name)?;
        if app.catalog.snapshot().entries.contains_key(&name) {
            return Err(taken(&name));
        }
        let config = app.config();
        let folder = config.storage.models.first();
        let folder = folder.ok_or_else(|| Failure::fault("no models folder"))?;
        let job = app.jobs.enter(&asker.id, JobKind::Install, &name, asker.uid);
        let incoming = Incoming::open(folder, name, job.id())?;
        if let (Some(bytes), Ok(disk)) = (bytes, fstatvfs(incoming.part.file())) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if bytes.saturating_add(SPARE_BYTES) > free {
                return Err(disk_full(Some((bytes, free))));
            }
        }
        tracing::info!(
            request_id = job.id(),
            model = %incoming.name,
            uid = asker.uid,
            "installing {} for uid {}",
            incoming.name,
            asker.uid
        );
        Ok((incoming, Held { job, _slot: slot }))
    }

    /// Begins a file in this folder.
    fn open(folder: &Path, name: String, id: &str) -> Result<Incoming, Failure> {
        let to = folder.join(format!("{name}.gguf"));
        if to.symlink_metadata().is_ok() {
            return Err(taken(&name));
        }
        let part = part_of(&to, id).ok_or_else(|| Failure::fault("a model's path has no folder"))?;
        let part = Part::create(part.clone(), folder).map_err(|error| cannot_write(&part, &error))?;
        let id = id.to_owned();
        Ok(Incoming { part, to, name, id })
    }

    /// The name that the model will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A way to take back what is written where its writer hangs.
    pub fn undo(&self) -> Undo {
        self.part.undo()
    }

    /// Writes a piece. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut file = self.part.file();
        file.write_all(bytes)
            .map_err(|error| cannot_write(&self.to, &error))
    }

    /// Checks what was written and puts it in its place. Blocks.
    pub fn finish(self) -> Result<(String, u64), Failure> {
        let (file, part) = (self.part.file(), self.part.path());
        let synced = file.sync_all();
        synced.map_err(|error| cannot_write(&self.to, &error))?;
        hyprstream_model::inspect(part).map_err(|error| {
            let said = error.to_string().replace(&file_name(part), &self.name);
            Failure::new(
                ErrorCode::ModelBroken,
                format!("it was not installed, as it cannot be used: {said}"),
            )
        })?;
        let metadata = file.metadata();
        let bytes = metadata.map(|metadata| metadata.len()).unwrap_or(0);
        let here = rustix::fs::CWD;
        match renameat_with(here, part, here, &self.to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(taken(&self.name)),
            // Some file systems do not know the flag; a link does not overwrite either.
            Err(rustix::io::Errno::INVAL) => {
                fs::hard_link(part, &self.to).map_err(|error| match error.kind() {
                    ErrorKind::AlreadyExists => taken(&self.name),
                    _ => cannot_write(&self.to, &error),
                })?
            }
            Err(error) => return Err(cannot_write(&self.to, &error.into())),
        }
        sync_folder_of(&self.to);
        tracing::info!(request_id = self.id, model = %self.name, bytes, "installed: {}", self.name);
        Ok((self.name.clone(), bytes))
    }
}

/// Waits until the catalog lists a model, or no longer does, so that the caller's next request finds it so.
pub async fn listed(app: &App, name: &str, there: bool) {
    let mut changes = app.catalog.changes();
    let seen = async {
        while app.catalog.snapshot().entries.contains_key(name) != there {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // A catalog that is slow is no failure of what was asked.
    let _ = tokio::time::timeout(LISTED_MAX, seen).await;
}

/// The model of exactly this name. A start of it would do to ask it, but who deletes `a` twice does not mean `a-large`.
pub fn named(app: &App, name: &str) -> Result<Arc<Entry>, Failure> {
    let entry = app.entry(Some(name))?;
    if entry.name == name {
        return Ok(entry);
    }
    let (wanted, near) = (name.to_owned(), vec![entry.name.clone()]);
    Err(Unresolved::Unknown { wanted, near }.into())
}

/// Removes a model's files, and gives their bytes. Requests that run with it go on to their end.
pub async fn delete(app: &App, entry: &Arc<Entry>) -> Result<u64, Failure> {
    if entry.starter {
        let message = format!(
            "{} came with hyprstream and goes with it; it cannot be deleted alone",
            entry.name
        );
        return Err(Failure::new(ErrorCode::Denied, message));
    }
    if app.config().storage.models.contains(&entry.path) {
        let message = format!(
            "{} is the models folder itself; take its files away by hand",
            entry.name
        );
        return Err(Failure::new(ErrorCode::Denied, message));
    }
    app.models.unload(&entry.name);
    let gone = Arc::clone(entry);
    let removing = tokio::task::spawn_blocking(move || remove(&gone));
    let removed = removing.await;
    removed
        .map_err(|_| Failure::fault("deleting a model broke off"))?
        .map_err(|error| cannot_write(&entry.path, &error))?;
    listed(app, &entry.name, false).await;
    tracing::info!(model = %entry.name, bytes = entry.bytes, "deleted: {}", entry.name);
    Ok(entry.bytes)
}

fn remove(entry: &Entry) -> io::Result<()> {
    let metadata = fs::symlink_metadata(&entry.path)?;
    // Of a link, the link goes, and not what it leads to.
    if !metadata.is_dir() {
        if metadata.is_file() && Identity::of_file(&metadata) != entry.identity {
            return Err(changed_now());
        }
        fs::remove_file(&entry.path)?;
        sync_folder_of(&entry.path);
        return Ok(());
    }
    let (parts, identity) = parts_of(&entry.path)?;
    if identity != entry.identity {
        return Err(changed_now());
    }
    // Without this one it is no model any more, whatever happens to the others.
    let first = entry.path.join("config.json");
    fs::remove_file(&first)?;
    for part in parts.iter().filter(|part| **part != first) {
        fs::remove_file(part)?;
    }
    match fs::remove_dir(&entry.path) {
        // Other models lie in it or below it, or files that are nobody's model.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

fn changed_now() -> io::Error {
    io::Error::other("it was changed just now; look at it again")
}

/// The name under which a model can be installed.
fn wanted_name(name: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        let message = format!("{:?} cannot be a model's name: {why}", said(name));
        Failure::bad_field("name", message)
    };
    let path = Path::new(name);
    let mut parts = path.components();
    if parts
        .any(|part| !matches!(part, Component::Normal(part) if !part.as_encoded_bytes().starts_with(b".")))
    {
        return Err(wrong("it is no plain path, or a part of it begins with a dot"));
    }
    if path.components().count() > DEPTH_MAX || path.components().any(|part| part.as_os_str().len() > 200) {
        return Err(wrong("it is too long"));
    }
    model_name(path).map_err(wrong)
}

/// Hidden, so that nobody takes it for a model, and in the same folder, so that it can be renamed.
fn part_of(to: &Path, id: &str) -> Option<PathBuf> {
    let id: String = id.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let folder = to.parent()?;
    Some(folder.join(format!(".{id}-{}.part", file_name(to))))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn sync_folder_of(path: &Path) {
    let folder = path.parent().map(File::open);
    // A file system that cannot do this keeps its own order.
    if let Some(Ok(folder)) = folder {
        let _ = folder.sync_all();
    }
}

fn taken(name: &str) -> Failure {
    Failure::bad_field(
        "name",
        format!("there is a model {name:?} already; delete it first, or choose another name"),
    )
}

fn disk_full(numbers: Option<(u64, u64)>) -> Failure {
    let numbers = numbers.map_or_else(String::new, |(bytes, free)| {
        format!(
            " (it needs {}, and {} are free)",
            show_size(bytes),
            show_size(free)
        )
    });
    let message =
        format!("the models folder's disk is full{numbers}; make room, or set another [storage] models");
    Failure::new(ErrorCode::ModelTooLarge, message)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => disk_full(None),
        _ => {
            tracing::warn!("{}: {error}", path.display());
            let mut folder = path.parent().unwrap_or(path);
            if error.kind() == ErrorKind::ReadOnlyFilesystem {
                // What is to be made there is not there yet.
                folder = folder
                    .ancestors()
                    .find(|folder| folder.exists())
                    .unwrap_or(folder);
            }
            let advice = fences::advice(folder, error)
                .unwrap_or_else(|| format!("give its user the right to write to {}", folder.display()));
            let message = format!("the daemon cannot change its models folder ({error}); {advice}");
            Failure::new(ErrorCode::Internal, message)
        }
    }
}

#[cfg(test)]
impl Incoming {
    /// One without a daemon.
    pub fn alone(folder: &Path, name: &str) -> Incoming {
        Incoming::open(folder, name.to_owned(), "7").unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_models_folder() {
        assert_eq!(wanted_name("a/b.gguf").unwrap(), "a/b");
        assert_eq!(wanted_name("Qwen3-0.6B").unwrap(), "Qwen3-0.6B");
        for bad in [
            "",
            "../x",
            "/etc/x",
            "a/../b",
            ".hidden",
            "a/.b",
            "a\nb",
            " ",
            " .gguf",
            "a/b/c/d/e",
            &"x".repeat(300),
        ] {
            assert!(wanted_name(bad).is_err(), "{bad}");
        }
        let part = part_of(Path::new("/m/a/b.gguf"), "12/ab").unwrap();
        assert_eq!(part, Path::new("/m/a/.12ab-b.gguf.part"));
    }

    #[test]
    fn of_a_folder_only_the_files_of_its_model_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        fs::create_dir(&path).unwrap();
        for name in [
            "config.json",
            "model.safetensors",
            "other.gguf",
            "notes.txt",
            ".7-b.gguf.part",
        ] {
            fs::write(path.join(name), name).unwrap();
        }
        let mut entry = Entry {
            name: "m".into(),
            path: path.clone(),
            files: Vec::new(),
            identity: Identity([0; 32]),
            bytes: 0,
            modified: std::time::SystemTime::UNIX_EPOCH,
            starter: false,
            content: crate::catalog::Content::Broken(String::new()),
            digest: None,
        };
        assert!(
            remove(&entry).is_err(),
            "another content than the one that was meant"
        );
        assert!(path.join("config.json").exists());
        entry.identity = parts_of(&path).unwrap().1;
        remove(&entry).unwrap();
        let mut left: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|item| item.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".7-b.gguf.part", "notes.txt", "other.gguf"]);
    }
}
