//! Listens to the kernel (inotify) about the folders that the walk found. Invariant: events only make the next look
//! come sooner or later; what is listed is decided by looking.
use super::inbox::Inbox;
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The watched folders and linked files.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    failed: bool,
}

impl Watch {
    /// Starts to listen; where the kernel refuses, the folders are looked through every now and then instead.
    pub fn start(inbox: Arc<Inbox>) -> Watch {
        let watcher = notify::recommended_watcher(move |event| match event {
            Ok(event) => sort_in(&inbox, event),
            Err(_) => inbox.lost(),
        });
        if let Err(error) = &watcher {
            tracing::warn!("the kernel does not tell of changes ({error}); the models folders are polled");
        }
        Watch {
            failed: watcher.is_err(),
            watcher: watcher.ok(),
            watched: BTreeMap::new(),
        }
    }

    /// Whether the kernel tells of everything.
    pub fn complete(&self) -> bool {
        !self.failed
    }

    /// Watches exactly these; true when something is watched that was not before.
    pub fn follow(&mut self, wanted: &BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let gone: Vec<_> = self
            .watched
            .iter()
            .filter(|(path, id)| wanted.get(*path) != Some(id))
            .collect();
        let gone: Vec<_> = gone.into_iter().map(|(path, _)| path.clone()).collect();
        for path in gone {
            // It fails when the folder went away and took its watch along.
            let _ = watcher.unwatch(&path);
            self.watched.remove(&path);
        }
        let mut added = false;
        let mut failed = false;
        for (path, id) in wanted {
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *id);
                    added = true;
                }
                Err(error) => {
                    failed = true;
                    if !self.failed {
                        tracing::warn!("{path:?} cannot be watched ({error}); the models folders are polled");
                    }
                }
            }
        }
        self.failed = failed;
        added
    }
}

fn sort_in(inbox: &Inbox, event: Event) {
    if event.need_rescan() {
        return inbox.lost();
    }
    let paths = event.paths;
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            paths.into_iter().for_each(|p| inbox.closed(p))
        }
        EventKind::Access(_) => {}
        EventKind::Modify(ModifyKind::Data(_)) => paths.into_iter().for_each(|p| inbox.wrote(p)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            paths.into_iter().for_each(|p| inbox.closed(p))
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
            let mut paths = paths.into_iter();
            if let Some(from) = paths.next() {
                inbox.removed(&from);
            }
            paths.for_each(|p| inbox.closed(p));
        }
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => {
            paths.iter().for_each(|p| inbox.removed(p))
        }
        _ => inbox.changed(),
    }
}
