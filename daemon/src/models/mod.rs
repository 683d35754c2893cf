//! The models in memory: loaded on demand, once for all who wait, and unloaded when nobody needs them. Invariant: what
//! all of them claim never exceeds the budget, and a model in use is never taken away.
mod budget;
mod load;
mod resident;

pub use budget::{available_memory, private_memory, resident_memory};
pub use resident::{AcquireError, Lease};

use crate::catalog::{Catalog, Entry, Identity};
use hyprstream_engine::{Engine, MemoryPlan, Model};
use hyprstream_protocol::{LoadStage, ModelState};
use resident::Resident;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A model that failed to load is tried again after so long: the reason may have been a full disk or too many files.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// The shortest pause between two looks for unused models.
const SWEEP_MIN: Duration = Duration::from_millis(20);

/// All models in memory. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Arc<Catalog>,
    engine: Engine,
    limits: Mutex<Limits>,
    /// Where packed weights are kept.
    cache: PathBuf,
    state: Mutex<State>,
    /// Told whenever a model's state may have changed, or the limits have.
    changed: watch::Sender<()>,
    /// Held by the one load that goes on.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Limits {
    budget: u64,
    idle_unload: Option<Duration>,
}

#[derive(Default)]
struct State {
    slots: HashMap<String, Slot>,
    /// Out of the table, and still in use by requests that came before.
    leaving: Vec<Leaving>,
}

/// Counted until the engine, too, has let go of it.
struct Leaving {
    model: Weak<Model>,
    name: String,
    claim: u64,
}

enum Slot {
    Loading {
        identity: Identity,
        stage: watch::Receiver<Stage>,
        claim: u64,
    },
    Loaded(Arc<Resident>),
    Failed {
        identity: Identity,
        reason: String,
        at: Instant,
    },
}

#[derive(Clone)]
enum Stage {
    At(LoadStage, Option<f32>),
    Ready(Arc<Resident>),
    Failed(AcquireError),
}

impl Models {
    /// Nothing is loaded at first.
    pub fn new(
        catalog: Arc<Catalog>,
        engine: Engine,
        budget: u64,
        idle_unload: Option<Duration>,
        cache: PathBuf,
    ) -> Models {
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::new(()));
        let limits = Mutex::new(Limits { budget, idle_unload });
        Models {
            shared: Arc::new(Shared {
                catalog,
                engine,
                limits,
                cache,
                state,
                changed: watch::Sender::new(()),
                turn,
            }),
        }
    }

    /// A way to wait for the next change of a model's state, or of the limits.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Bytes that models may use together.
    pub fn budget(&self) -> u64 {
        self.shared.limits().budget
    }

    /// Other limits from now on. A smaller budget counts for the next load; nothing in use is taken away.
    pub fn set_limits(&self, budget: u64, idle_unload: Option<Duration>) {
        *self.shared.limits.lock().unwrap_or_else(PoisonError::into_inner) = Limits { budget, idle_unload };
        self.shared.changed.send_replace(());
    }

    /// Whether no model is in memory, nor on its way into it.
    pub fn is_empty(&self) -> bool {
        let (claim, names) = self.claimed();
        claim == 0 && names.is_empty()
    }

    /// Unloads models that nobody used for so long; how many.
    pub fn unload_unused(&self, since: Duration) -> usize {
        let mut state = self.shared.state();
        let unused = state.slots.iter().filter_map(|(name, slot)| match slot {
            Slot::Loaded(resident) => (resident.idle_since()?.elapsed() >= since).then(|| name.clone()),
            _ => None,
        });
        let unused: Vec<_> = unused.collect();
        for name in &unused {
            self.shared.retire(&mut state, name);
        }
        unused.len()
    }

    /// Bytes that loading a model claims.
    pub fn needed(&self, entry: &Entry) -> Option<u64> {
        Some(MemoryPlan::for_model(entry.summary()?, self.shared.engine.options()).total())
    }

    /// Bytes claimed now, with those of the compute threads, and the names of the models that claim them.
    pub fn claimed(&self) -> (u64, Vec<String>) {
        self.shared.claimed(&mut self.shared.state())
    }

    /// Whether a model is on its way into memory.
    pub fn is_loading(&self) -> bool {
        self.shared
            .state()
            .slots
            .values()
            .any(|slot| matches!(slot, Slot::Loading { .. }))
    }

    /// Where a model stands, and why it is broken.
    pub fn state(&self, entry: &Entry) -> (ModelState, Option<String>) {
        if let crate::catalog::Content::Broken(reason) = &entry.content {
            return (ModelState::Broken, Some(reason.clone()));
        }
        match self.shared.state().slots.get(&entry.name) {
            Some(Slot::Loaded(_)) => (ModelState::Loaded, None),
            Some(Slot::Loading { .. }) => (ModelState::Loading, None),
            Some(Slot::Failed { identity, reason, .. }) if *identity == entry.identity => {
                (ModelState::Broken, Some(reason.clone()))
            }
            _ => (ModelState::Available, None),
        }
    }

    /// The model at once, where it is in memory.
    pub fn acquire_now(&self, entry: &Entry) -> Option<Lease> {
        match self.shared.state().slots.get(&entry.name) {
            Some(Slot::Loaded(resident)) if resident.serves(entry) => Some(Lease::new(resident)),
            _ => None,
        }
    }

    /// The model, loaded first where it must be. `on_stage` hears what is being waited for.
    pub async fn acquire(
        &self,
        entry: &Arc<Entry>,
        mut on_stage: impl FnMut(LoadStage, Option<f32>),
    ) -> Result<Lease, AcquireError> {
        let mut stage = match self.join(entry)? {
            Joined::Ready(lease) => return Ok(lease),
            Joined::Loading(stage) => stage,
        };
        loop {
            let now = stage.borrow_and_update().clone();
            match now {
                Stage::At(stage, progress) => on_stage(stage, progress),
                Stage::Ready(resident) => return Ok(Lease::new(&resident)),
                Stage::Failed(error) => return Err(error),
            }
            stage.changed().await.map_err(|_| AcquireError::Fault {
                name: entry.name.clone(),
            })?;
        }
    }

    fn join(&self, entry: &Arc<Entry>) -> Result<Joined, AcquireError> {
        let name = &entry.name;
        let need = match (&entry.content, self.needed(entry)) {
            (crate::catalog::Content::Usable(_), Some(need)) => need,
            (crate::catalog::Content::Broken(reason), _) => {
                return Err(AcquireError::Broken {
                    name: name.clone(),
                    reason: reason.clone(),
                });
            }
            (_, None) => return Err(AcquireError::Fault { name: name.clone() }),
        };
        let mut state = self.shared.state();
        match state.slots.get(name) {
            Some(Slot::Loaded(resident)) if resident.serves(entry) => {
                return Ok(Joined::Ready(Lease::new(resident)));
            }
            Some(Slot::Loading { identity, stage, .. }) if *identity == entry.identity => {
                return Ok(Joined::Loading(stage.clone()));
            }
            Some(Slot::Failed { identity, reason, at })
                if *identity == entry.identity && at.elapsed() < RETRY_AFTER =>
            {
                return Err(AcquireError::Broken {
                    name: name.clone(),
                    reason: reason.clone(),
                });
            }
            // The file was replaced since it was loaded, or what is mapped was cut short: those who use the old one keep it.
            Some(Slot::Loaded(_)) => self.shared.retire(&mut state, name),
            _ => {}
        }
        let (report, stage) = watch::channel(Stage::At(LoadStage::Waiting, None));
        let slot = Slot::Loading {
            identity: entry.identity,
            stage: stage.clone(),
            claim: 0,
        };
        state.slots.insert(name.clone(), slot);
        drop(state);
        self.shared.changed.send_replace(());
        let (shared, entry) = (Arc::clone(&self.shared), Arc::clone(entry));
        tokio::spawn(async move { shared.load(entry, need, report).await });
        Ok(Joined::Loading(stage))
    }

    /// Takes a model out of memory once its requests are through; whether it was in memory.
    pub fn unload(&self, name: &str) -> bool {
        let mut state = self.shared.state();
        let loaded = matches!(state.slots.get(name), Some(Slot::Loaded(_)));
        if loaded {
            self.shared.retire(&mut state, name);
        }
        loaded
    }

    /// Forgets that a load failed, so that the next one is tried at once.
    pub fn forgive(&self, name: &str) {
        let mut state = self.shared.state();
        if matches!(state.slots.get(name), Some(Slot::Failed { .. })) {
            state.slots.remove(name);
            self.shared.changed.send_replace(());
        }
    }

    /// Unloads, for as long as the daemon lives, what nobody used for a while and what is no longer on disk.
    pub async fn tend(self) {
        let mut on_disk = self.shared.catalog.changes();
        let mut in_memory = self.shared.changed.subscribe();
        loop {
            let due = self.shared.sweep();
            let waiting = async {
                match due {
                    // Not at once where somebody has just gone: the clock must get past the limit.
                    Some(time) => tokio::time::sleep(time.max(SWEEP_MIN)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waiting => {}
                _ = on_disk.changed() => {}
                _ = in_memory.changed() => {}
            }
        }
    }
}

enum Joined {
    Ready(Lease),
    Loading(watch::Receiver<Stage>),
}

impl State {
    fn claimed(&mut self) -> (u64, Vec<String>) {
        self.leaving.retain(|leaving| leaving.model.strong_count() > 0);
        let leaving = self.leaving.iter();
        let mut claims: Vec<(String, u64)> = leaving.map(|l| (l.name.clone(), l.claim)).collect();
        claims.extend(self.slots.iter().filter_map(|(name, slot)| match slot {
            Slot::Loaded(resident) => Some((name.clone(), resident.claim)),
            Slot::Loading { claim, .. } if *claim > 0 => Some((name.clone(), *claim)),
            _ => None,
        }));
        claims.sort();
        let total = claims
            .iter()
            .fold(0u64, |sum, (_, claim)| sum.saturating_add(*claim));
        (total, claims.into_iter().map(|(name, _)| name).collect())
    }

    fn least_recently_used(&self) -> Option<String> {
        let idle = self.slots.iter().filter_map(|(name, slot)| match slot {
            Slot::Loaded(resident) => resident.idle_since().map(|since| (since, name)),
            _ => None,
        });
        idle.min().map(|(_, name)| name.clone())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What models claim, and what the compute threads keep, once for all of them.
    fn claimed(&self, state: &mut State) -> (u64, Vec<String>) {
        let (claim, names) = state.claimed();
        match claim {
            0 => (0, names),
            _ => (claim.saturating_add(self.engine.thread_bytes()), names),
        }
    }

    fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self, state: &mut State, name: &str) {
        if let Some(Slot::Loaded(resident)) = state.slots.remove(name) {
            tracing::info!(model = name, "unloaded: {name}");
            self.leave(state, &resident);
            self.changed.send_replace(());
        }
    }

    /// Has the engine free a model, and counts it until that is done.
    fn leave(&self, state: &mut State, resident: &Resident) {
        self.engine.unload(&resident.model);
        state.leaving.push(Leaving {
            model: Arc::downgrade(&resident.model),
            name: resident.model.name().to_owned(),
            claim: resident.claim,
        });
    }

    /// Unloads what is due, and says when the next model may be.
    fn sweep(&self) -> Option<Duration> {
        let idle_unload = self.limits().idle_unload;
        let snapshot = self.catalog.snapshot();
        let mut state = self.state();
        let due = state.slots.iter().filter_map(|(name, slot)| {
            let Slot::Loaded(resident) = slot else { return None };
            let current = snapshot
                .entries
                .get(name)
                .is_some_and(|entry| entry.identity == resident.identity);
            let idle = resident.idle_since().map(|since| since.elapsed());
            let tired = idle.zip(idle_unload).is_some_and(|(idle, limit)| idle >= limit);
            // Who still uses one that is gone keeps it to the end, and nothing would wake this again then.
            (tired || !current).then(|| name.clone())
        });
        for name in due.collect::<Vec<_>>() {
            self.retire(&mut state, &name);
        }
        state.slots.retain(|name, slot| match slot {
            Slot::Failed { identity, .. } => snapshot
                .entries
                .get(name)
                .is_some_and(|e| e.identity == *identity),
            _ => true,
        });
        let limit = idle_unload?;
        let left = state.slots.values().filter_map(|slot| match slot {
            // One in use will be due when it has been left alone for the whole time.
            Slot::Loaded(resident) => Some(
                resident
                    .idle_since()
                    .map_or(limit, |since| limit.saturating_sub(since.elapsed())),
            ),
            _ => None,
        });
        left.min()
    }
}
