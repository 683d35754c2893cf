//! Brings one model into memory. Invariant: loads go one after the other, and memory is claimed before it is used.
use super::resident::{AcquireError, Resident};
use super::{Shared, Slot, Stage};
use crate::catalog::Entry;
use hyprstream_engine::Model;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

impl Shared {
    /// Loads a model when its turn comes, and tells all who wait.
    pub(super) async fn load(self: Arc<Shared>, entry: Arc<Entry>, need: u64, report: watch::Sender<Stage>) {
        let turn = self.turn.lock().await;
        let result = match self.make_room(&entry, need) {
            Ok(()) => self.read(&entry, need, &report).await,
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
        drop(turn);
        report.send_replace(last);
    }

    /// Claims memory for a model, at the cost of idle ones where it must be.
    fn make_room(&self, entry: &Entry, need: u64) -> Result<(), AcquireError> {
        let mut state = self.state();
        loop {
            let (used, by) = state.claimed();
            if used.saturating_add(need) <= self.budget {
                break;
            }
            let too_large = || AcquireError::TooLarge {
                name: entry.name.clone(),
                needs: need,
                budget: self.budget,
                used,
                by: by.clone(),
            };
            // Nobody is sent away for a model that does not fit even alone.
            if need > self.budget {
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
        &self,
        entry: &Arc<Entry>,
        need: u64,
        report: &watch::Sender<Stage>,
    ) -> Result<Arc<Resident>, AcquireError> {
        let started = Instant::now();
        let (from, reporter) = (Arc::clone(entry), report.clone());
        let reading = tokio::task::spawn_blocking(move || {
            Model::load(&from.name, &from.path, &mut |stage, progress| {
                reporter.send_replace(Stage::At(stage, progress));
            })
        });
        let name = entry.name.clone();
        match reading.await {
            Ok(Ok(model)) => {
                let load_ms = started.elapsed().as_millis() as u64;
                tracing::info!(model = %name, load_ms, claim_bytes = need, "loaded: {name} in {load_ms} ms");
                Ok(Arc::new(Resident::new(Arc::new(model), entry.identity, need)))
            }
            Ok(Err(error)) => Err(AcquireError::Broken {
                name,
                reason: error.to_string(),
            }),
            Err(_) => Err(AcquireError::Fault { name }),
        }
    }
}
