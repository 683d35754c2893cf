//! What every request can reach. Invariant: nothing here changes while requests run, but through the parts' own locks.
use crate::args::Args;
use crate::authority::Authority;
use crate::catalog::{Catalog, Entry, resolve};
use crate::config::Config;
use crate::errors::Failure;
use crate::ipc::{Room, Tokens};
use crate::jobs::Jobs;
use crate::models::Models;
use hyprstream_engine::Engine;
use hyprstream_protocol::Model;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How far the daemon's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    /// Everything is answered.
    Serving,
    /// New work is refused, old work goes on.
    Draining,
    /// Old work ends too.
    Ending,
}

/// The daemon's parts.
pub struct App {
    /// Settings; a reload puts others in their place.
    pub settings: RwLock<Arc<Config>>,
    /// The command line, which a reload reads the configuration under.
    pub args: Args,
    /// Held by the one reload that goes on.
    pub reloading: tokio::sync::Mutex<()>,
    /// Models on disk.
    pub catalog: Arc<Catalog>,
    /// Models in memory.
    pub models: Models,
    /// What computes.
    pub engine: Engine,
    /// What is at work.
    pub jobs: Jobs,
    /// When the daemon started.
    pub started: Instant,
    /// Folders that are searched, for `status`.
    pub models_dirs: Vec<PathBuf>,
    /// Told of every reload.
    pub reconfigured: Notify,
    /// How far the daemon's end has come.
    pub phase: watch::Sender<Phase>,
    /// Requests at work.
    pub activity: Arc<Activity>,
    /// Who may do what.
    pub authority: Authority,
    /// Room for large requests.
    pub room: Room,
    /// Who may come in over TCP; a reload reads them again.
    pub tokens: RwLock<Arc<Tokens>>,
}

impl App {
    /// The settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The tokens as they are now.
    pub fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other tokens in their place; those that are gone open nothing from now on.
    pub fn set_tokens(&self, tokens: Tokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    /// Puts other settings in their place.
    pub fn set_config(&self, config: Config) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.reconfigured.notify_one();
    }

    /// Returns once the settings have changed since this last returned. For one caller.
    pub async fn reconfigured(&self) {
        self.reconfigured.notified().await;
    }

    /// The model that a request names, or the default one.
    pub fn entry(&self, wanted: Option<&str>) -> Result<Arc<Entry>, Failure> {
        let snapshot = self.catalog.snapshot();
        match (wanted, self.config().generation.model.as_deref()) {
            (Some(name), _) => Ok(Arc::clone(resolve(name, &snapshot.entries)?)),
            (None, Some(name)) => {
                let entry = resolve(name, &snapshot.entries).map_err(Failure::wrong_default)?;
                Ok(Arc::clone(entry))
            }
            (None, None) => snapshot
                .default_model(None)
                .cloned()
                .ok_or_else(Failure::no_models),
        }
    }

    /// Name of the default model.
    pub fn default_model(&self) -> Option<String> {
        let snapshot = self.catalog.snapshot();
        let entry = snapshot.default_model(self.config().generation.model.as_deref())?;
        Some(entry.name.clone())
    }

    /// A model as clients are told of it.
    pub fn describe(&self, entry: &Entry) -> Model {
        let (state, reason) = self.models.state(entry);
        let summary = entry.summary();
        Model {
            name: entry.name.clone(),
            state,
            reason,
            arch: summary.map(|s| s.arch.clone()),
            parameters: summary.map(|s| s.parameters),
            format: summary.map(|s| s.format.clone()),
            context: summary.map(|s| s.context),
            bytes: entry.bytes,
            modified_s: entry.modified_s(),
            starter: entry.starter,
        }
    }

    /// Refuses new work while the daemon stops.
    pub fn admit(&self) -> Result<(), Failure> {
        match *self.phase.borrow() {
            Phase::Serving => Ok(()),
            Phase::Draining | Phase::Ending => Err(Failure::stopping()),
        }
    }

    /// Returns once `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        let mut watching = self.phase.subscribe();
        // It fails only when the sender is gone, and that is a part of this.
        let _ = watching.wait_for(|now| *now >= phase).await;
    }

    /// Nothing runs, waits, loads or is being answered.
    pub fn is_idle(&self) -> bool {
        self.jobs.len() == 0
            && self.activity.count() == 0
            && self.engine.is_idle()
            && !self.models.is_loading()
    }
}

/// Counts requests at work, and remembers when the last one ended.
pub struct Activity {
    requests: AtomicUsize,
    begun: Notify,
    last: Mutex<Instant>,
}

/// One request at work.
pub struct Active(Arc<Activity>);

impl Activity {
    /// Nothing is at work.
    pub fn new() -> Arc<Activity> {
        Arc::new(Activity {
            requests: AtomicUsize::new(0),
            begun: Notify::new(),
            last: Mutex::new(Instant::now()),
        })
    }

    /// One more.
    pub fn begin(self: &Arc<Activity>) -> Active {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_one();
        Active(Arc::clone(self))
    }

    /// Returns once a request has begun since this last returned. For one caller.
    pub async fn begun(&self) {
        self.begun.notified().await;
    }

    /// How many are at work.
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Marks now as the last time that something was at work.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Since the last request ended.
    pub fn idle_for(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
