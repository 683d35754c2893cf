//! The models on disk: what the models folders hold, kept up to date by a thread of its own. Invariant: readers see
//! whole snapshots; a file that is still being written is in none of them.
mod digest;
mod entry;
mod inbox;
mod names;
mod scan;
mod settle;
mod store;
mod watch;

pub use entry::{Content, Entry, Identity};
pub use names::{Unresolved, from_path as model_name, resolve};
pub use scan::{Root, parts_of};

use inbox::Inbox;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use store::Store;
use tokio::sync::watch as changes;

/// How long after an event others of the same change are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// How often to look again while a file is not settled, or a folder is missing.
const SOON: Duration = Duration::from_millis(250);
/// How long a start waits for files that changed just now, so that the first request finds what was put there before it.
const START_WAIT: Duration = Duration::from_millis(400);
/// Between two looks meanwhile.
const START_LOOK: Duration = Duration::from_millis(50);
/// How often to look where the kernel cannot tell of changes.
const UNWATCHED: Duration = Duration::from_millis(1500);
/// A folder that is missing for long is looked for less and less often, down to this.
const MISSING_MAX: Duration = Duration::from_secs(5);
/// How often to look where something may change without an event: network folders, and links' targets.
const REGULAR: Duration = Duration::from_secs(30);
/// How often to look in any case.
const SELDOM: Duration = Duration::from_secs(3600);

/// All models at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub entries: BTreeMap<String, Arc<Entry>>,
}

impl Snapshot {
    /// The model that answers when a request names none: the configured one, else the newest one with a chat template
    /// that did not come with hyprstream, else the starter. One that cannot chat stands in only where nothing can.
    pub fn default_model(&self, configured: Option<&str>) -> Option<&Arc<Entry>> {
        if let Some(wanted) = configured {
            return resolve(wanted, &self.entries).ok();
        }
        let usable = self
            .entries
            .values()
            .filter_map(|entry| Some((entry.summary()?.has_template, entry)));
        let best = usable.max_by_key(|(chats, entry)| {
            (
                *chats,
                !entry.starter,
                entry.modified,
                std::cmp::Reverse(&entry.name),
            )
        });
        best.map(|(_, entry)| entry)
    }
}

struct Shared {
    snapshot: RwLock<Arc<Snapshot>>,
    changed: changes::Sender<()>,
    inbox: Arc<Inbox>,
}

/// A handle on the catalog; the threads end when it is dropped.
pub struct Catalog {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Catalog {
    /// Reads all folders once, then follows them in the background. `busy` says when hashing should rest.
    pub fn start(
        roots: Vec<Root>,
        state: &Path,
        busy: impl Fn() -> bool + Send + 'static,
    ) -> std::io::Result<Catalog> {
        let inspect = |path: &Path| hyprstream_model::inspect(path).map_err(|error| error.to_string());
        Catalog::start_with(roots, state, busy, inspect)
    }

    fn start_with(
        roots: Vec<Root>,
        state: &Path,
        busy: impl Fn() -> bool + Send + 'static,
        inspect: settle::Inspect,
    ) -> std::io::Result<Catalog> {
        let store = Arc::new(Store::open(state));
        let shared = Arc::new(Shared {
            snapshot: RwLock::default(),
            changed: changes::Sender::new(()),
            inbox: Arc::new(Inbox::default()),
        });
        let mut follower = Follower {
            roots,
            watch: watch::Watch::start(Arc::clone(&shared.inbox)),
            settle: settle::Settle::new(inspect),
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
            missing: SOON,
            waiting: false,
        };
        let began = Instant::now();
        let mut first = follower.pass();
        while follower.waiting && began.elapsed() < START_WAIT {
            thread::sleep(START_LOOK);
            first = follower.pass();
        }
        let following = thread::Builder::new()
            .name("catalog".into())
            .spawn(move || follower.run(first))?;
        let for_digests = Arc::clone(&shared);
        let hashing = thread::Builder::new()
            .name("catalog-digest".into())
            .spawn(move || digest::run(&for_digests, &store, &busy))?;
        Ok(Catalog {
            shared,
            threads: vec![following, hashing],
        })
    }

    /// A way to wait for the next change.
    pub fn changes(&self) -> changes::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The models now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.shared.inbox.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr; nothing is left to do about it here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, snapshot: Snapshot) {
        if self.snapshot().entries == snapshot.entries {
            return;
        }
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.changed.send_replace(());
        self.inbox.published();
    }
}

struct Follower {
    roots: Vec<Root>,
    watch: watch::Watch,
    settle: settle::Settle,
    store: Arc<Store>,
    shared: Arc<Shared>,
    /// How long to wait for a folder that is missing.
    missing: Duration,
    /// Some files need another look soon.
    waiting: bool,
}

impl Follower {
    fn run(mut self, first: Duration) {
        let mut wait = first;
        while self.shared.inbox.wait(wait, GATHER) {
            wait = self.pass();
        }
    }

    /// Looks at all folders, publishes what is there, and says when to look again without an event.
    fn pass(&mut self) -> Duration {
        let mail = self.shared.inbox.take();
        let mut found = scan::scan(&self.roots);
        // A folder that is watched only from now on may have got files since it was read: read once more.
        for _ in 0..scan::DEPTH_MAX {
            if !self.watch.follow(&found.watched) {
                break;
            }
            found = scan::scan(&self.roots);
        }
        let settled = self.settle.judge(found.candidates, &mail);
        let mut entries = settled.entries;
        for entry in &mut entries {
            entry.digest = self.store.digest(&entry.identity);
        }
        self.shared.publish(Snapshot {
            entries: names::unique(entries),
        });
        let missing = match found.root_missing {
            true => (self.missing * 5 / 4).min(MISSING_MAX),
            false => SOON,
        };
        self.missing = missing;
        self.waiting = settled.waiting;
        if settled.waiting {
            SOON
        } else if found.root_missing {
            missing
        } else if !self.watch.complete() {
            UNWATCHED
        } else if found.silent {
            REGULAR
        } else {
            SELDOM
        }
    }
}

#[cfg(test)]
mod tests;
