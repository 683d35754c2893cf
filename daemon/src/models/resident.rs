//! One model in memory, and the right to use it. Invariant: the number of leases is the number of users.
use crate::catalog::{Entry, Identity};
use crate::units::show_size;
use hyprstream_engine::Model;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A model and who uses it.
pub struct Resident {
    /// The model.
    pub model: Arc<Model>,
    /// Which content it was loaded from.
    pub identity: Identity,
    /// Bytes of the budget.
    pub claim: u64,
    usage: Mutex<Usage>,
}

struct Usage {
    users: usize,
    last: Instant,
}

impl Resident {
    /// A model that nobody uses yet.
    pub fn new(model: Arc<Model>, identity: Identity, claim: u64) -> Resident {
        Resident {
            model,
            identity,
            claim,
            usage: Mutex::new(Usage {
                users: 0,
                last: Instant::now(),
            }),
        }
    }

    /// Whether it is what is on disk now, and whole.
    pub fn serves(&self, entry: &Entry) -> bool {
        self.identity == entry.identity && !self.model.file().damaged()
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when nobody uses it; `None` while somebody does.
    pub fn idle_since(&self) -> Option<Instant> {
        let usage = self.usage();
        (usage.users == 0).then_some(usage.last)
    }
}

/// The right to use a model. While it lives, the model stays in memory.
pub struct Lease(Arc<Resident>);

impl Lease {
    /// One more user.
    pub fn new(resident: &Arc<Resident>) -> Lease {
        resident.usage().users += 1;
        Lease(Arc::clone(resident))
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.0.model
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        Lease::new(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut usage = self.0.usage();
        usage.users = usage.users.saturating_sub(1);
        usage.last = Instant::now();
    }
}

/// Why a model cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Its files are not what they should be.
    #[error("model {name} cannot be used: {reason}")]
    Broken {
        /// The model.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The budget does not hold it.
    #[error("model {name} needs {}, and {}", show_size(*.needs), what_is_left(*.needs, *.budget, *.used, .by))]
    TooLarge {
        /// The model.
        name: String,
        /// Bytes it needs.
        needs: u64,
        /// Bytes for all models.
        budget: u64,
        /// Bytes that others use.
        used: u64,
        /// The others.
        by: Vec<String>,
    },
    /// The load broke off.
    #[error("loading model {name} failed for a reason that is the daemon's own; the journal has the details")]
    Fault {
        /// The model.
        name: String,
    },
}

fn what_is_left(needs: u64, budget: u64, used: u64, by: &[String]) -> String {
    let budget_shown = show_size(budget);
    if needs > budget {
        return format!(
            "the memory budget is {budget_shown}; use a smaller model, or raise [runtime] memory_max or lower kv_tokens"
        );
    }
    format!(
        "of the memory budget of {budget_shown}, {} are in use by {}; try again when they are idle",
        show_size(used),
        by.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_numbers() {
        let error = |needs, used| AcquireError::TooLarge {
            name: "big".into(),
            needs,
            budget: 4 << 30,
            used,
            by: vec!["a".into(), "b".into()],
        };
        let alone = error(6 << 30, 0).to_string();
        assert!(
            alone.contains("needs 6.0 GiB, and the memory budget is 4.0 GiB"),
            "{alone}"
        );
        let beside = error(2 << 30, 3 << 30).to_string();
        assert!(
            beside.contains("budget of 4.0 GiB, 3.0 GiB are in use by a, b"),
            "{beside}"
        );
    }
}
