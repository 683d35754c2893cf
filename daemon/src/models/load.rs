//! Brings one model into memory. Invariant: loads go one after the other, and memory is claimed before it is used.
use super::resident::{AcquireError, Resident};
use super::{Shared, Slot, Stage};
use crate::catalog::Entry;
use hyprstream_engine::{LoadError, LoadOptions, Model};
use hyprstream_model::{KnownDigest, PackedFrom, PackedSource, tidy_packed};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Packed weights of models that are gone may take so much: enough for one that comes back, a bound for the rest.
const GONE_BYTES_MAX: u64 = 4 << 30;

impl Shared {
    /// Loads a model when its turn comes, and tells all who wait.
    pub(super) async fn load(self: Arc<Shared>, entry: Arc<Entry>, need: u64, report: watch::Sender<Stage>) {
        let turn = self.turn.lock().await;
        let result = match self.make_room(&entry, need) {
            Ok(()) => Arc::clone(&self).read(&entry, need, &report).await,
            Err(error) => Err(error),
        };
        let mut state = self.state();
        let mine = match state.slots.get(&entry.name) {
            Some(Slot::Loading { identity, .. }) => *identity == entry.identity,
            _ => false,
        };
        let name = entry.name.clone();
        let last = match result {
            Ok(resident) => {
                if mine {
                    state.slots.insert(name, Slot::Loaded(Arc::clone(&resident)));
                } else {
                    self.leave(&mut state, &resident);
                }
                Stage::Ready(resident)
            }
            Err(error) => {
                tracing::warn!(model = %name, "not loaded: {error}");
                if mine {
                    state.slots.remove(&name);
                }
                if let (true, AcquireError::Broken { reason, .. }) = (mine, &error) {
                    let (reason, at) = (reason.clone(), Instant::now());
                    state.slots.insert(
                        name,
                        Slot::Failed {
                            identity: entry.identity,
                            reason,
                            at,
                        },
                    );
                }
                Stage::Failed(error)
            }
        };
        drop(state);
        self.changed.send_replace(());
        drop(turn);
        report.send_replace(last);
    }

    /// Claims memory for a model, at the cost of idle ones where it must be.
    fn make_room(&self, entry: &Entry, need: u64) -> Result<(), AcquireError> {
        let mut state = self.state();
        loop {
            let (used, by) = self.claimed(&mut state);
            let budget = self.limits().budget;
            let alone = need.saturating_add(self.engine.thread_bytes());
            let needs = if used == 0 { alone } else { need };
            if used.saturating_add(needs) <= budget {
                break;
            }
            let too_large = || AcquireError::TooLarge {
                name: entry.name.clone(),
                needs,
                budget,
                used,
                by: by.clone(),
            };
            // Nobody is sent away for a model that does not fit even alone.
            if alone > budget {
                return Err(too_large());
            }
            let name = state.least_recently_used().ok_or_else(too_large)?;
            self.retire(&mut state, &name);
        }
        if let Some(Slot::Loading { claim, .. }) = state.slots.get_mut(&entry.name) {
            *claim = need;
        }
        Ok(())
    }

    async fn read(
        self: Arc<Shared>,
        entry: &Arc<Entry>,
        need: u64,
        report: &watch::Sender<Stage>,
    ) -> Result<Arc<Resident>, AcquireError> {
        let started = Instant::now();
        let (from, reporter) = (Arc::clone(entry), report.clone());
        let reading = tokio::task::spawn_blocking(move || self.read_now(&from, &reporter));
        let name = entry.name.clone();
        match reading.await {
            Ok(Ok(model)) => {
                let load_ms = started.elapsed().as_millis() as u64;
                let packed = match model.packing().from {
                    PackedFrom::Nothing => "",
                    PackedFrom::Cache => ", packed weights from the cache folder",
                    PackedFrom::File => ", packed weights made and kept",
                    PackedFrom::Memory => ", packed weights in private memory",
                };
                tracing::info!(model = %name, load_ms, claim_bytes = need, "loaded: {name} in {load_ms} ms{packed}");
                for warning in &model.packing().warnings {
                    tracing::warn!(model = %name, "{warning}");
                }
                Ok(Arc::new(Resident::new(Arc::new(model), entry.identity, need)))
            }
            Ok(Err(error)) => Err(AcquireError::Broken {
                name,
                reason: error.to_string(),
            }),
            Err(_) => Err(AcquireError::Fault { name }),
        }
    }

    /// Blocks until the model is in memory.
    fn read_now(&self, entry: &Entry, report: &watch::Sender<Stage>) -> Result<Model, LoadError> {
        let digest = entry.digest.as_deref();
        let digest = digest.and_then(|hex| blake3::Hash::from_hex(hex).ok());
        let options = LoadOptions {
            pool: self.engine.pool(),
            cache: Some(&self.cache),
            digest: digest.map(|digest| KnownDigest {
                identity: entry.identity.0,
                digest: digest.into(),
            }),
        };
        let model = Model::load(&entry.name, &entry.path, &options, &mut |stage, progress| {
            report.send_replace(Stage::At(stage, progress));
        })?;
        if model.packing().from == PackedFrom::File {
            let tidied = tidy_packed(&self.cache, &|source| self.knows(source), GONE_BYTES_MAX);
            if tidied.files > 0 {
                let mb = tidied.bytes / 1_000_000;
                tracing::info!("removed {} old files ({mb} MB) of packed weights", tidied.files);
            }
        }
        Ok(model)
    }

    /// Whether packed weights belong to a model that is on disk.
    fn knows(&self, source: &PackedSource) -> bool {
        let digest = blake3::Hash::from(source.digest).to_hex();
        let snapshot = self.catalog.snapshot();
        snapshot.entries.values().any(|entry| {
            entry.identity.0 == source.identity || entry.digest.as_deref() == Some(digest.as_str())
        })
    }
}
