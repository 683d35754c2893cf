//! What the daemon hands to the engine, and what it gets back. Invariant: a request's sink receives exactly one last
//! item, `Done` or an error, unless the sink says first that nobody listens.
use crate::{Model, SamplingParams};
use hyprstream_protocol::{Event, JobState, Priority};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// One request.
pub struct Request {
    /// Id, for events and logs.
    pub id: String,
    /// Whose it is.
    pub uid: u32,
    /// Before which others it runs.
    pub priority: Priority,
    /// The model to run.
    pub model: Arc<Model>,
    /// Tokens that its user may have in this model's KV cache, all requests and what is kept of earlier ones together;
    /// whole blocks of it count, and one at least.
    pub kv_tokens_max: Option<usize>,
    /// The prompt. Not empty.
    pub tokens: Vec<u32>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// Report the prompt's tokens too.
    pub echo: bool,
    /// Where the outside reads how far it is, and cancels.
    pub progress: Arc<Progress>,
    /// Where events go.
    pub sink: Box<dyn Sink>,
}

/// The way out of the engine. It is called from the engine's thread and must never block.
pub trait Sink: Send {
    /// Whether an item can be taken now. A request whose sink is not ready rests, at most [`crate::Options::stall`].
    fn ready(&self) -> bool;
    /// Whether nobody listens any more: the request ends at once.
    fn closed(&self) -> bool;
    /// Takes an item. Called only after [`Sink::ready`] said yes.
    fn send(&mut self, item: Result<Event, EngineError>);
}

/// How far a request is, readable from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    state: AtomicU8,
    prompt_tokens: AtomicU32,
    completion_tokens: AtomicU32,
    cancelled: AtomicBool,
}

impl Progress {
    /// A request that still waits for its model.
    pub fn new() -> Progress {
        Progress::default()
    }

    /// Where it stands.
    pub fn state(&self) -> JobState {
        match self.state.load(Ordering::Relaxed) {
            0 => JobState::Loading,
            1 => JobState::Queued,
            _ => JobState::Running,
        }
    }

    /// Prompt length in tokens, 0 while unknown.
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens.load(Ordering::Relaxed)
    }

    /// Tokens generated so far.
    pub fn completion_tokens(&self) -> u32 {
        self.completion_tokens.load(Ordering::Relaxed)
    }

    /// Ends the request at the next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_state(&self, state: JobState) {
        let number = match state {
            JobState::Loading => 0,
            JobState::Queued => 1,
            JobState::Running => 2,
        };
        self.state.store(number, Ordering::Relaxed);
    }

    pub(crate) fn set_prompt_tokens(&self, tokens: u32) {
        self.prompt_tokens.store(tokens, Ordering::Relaxed);
    }

    pub(crate) fn set_completion_tokens(&self, tokens: u32) {
        self.completion_tokens.store(tokens, Ordering::Relaxed);
    }
}

/// Why a request ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The client, or an operator, ended it.
    #[error("the request was cancelled")]
    Cancelled,
    /// The daemon stops.
    #[error("the daemon is stopping; try again in a moment")]
    Stopping,
    /// The user's other requests leave too little of [`Request::kv_tokens_max`].
    #[error(
        "your requests at work need {held} of the {max} tokens that one user may have in a model's KV cache, and this one \
         needs {wanted} ([limits] user_kv_memory); let one end"
    )]
    UserKv {
        /// Tokens that the others hold, or wait for.
        held: usize,
        /// Tokens that this one needs at once.
        wanted: usize,
        /// The limit.
        max: usize,
    },
    /// The client did not read its answer.
    #[error("the client did not read its answer for {seconds} s, so the request was ended")]
    Stalled {
        /// The limit that was reached.
        seconds: u64,
    },
    /// The model's file was written to while it was mapped.
    #[error(
        "the file of model {model}, or that of its packed weights, was changed or cut short while it was in use; ask again when it is whole (a new file is best renamed into place)"
    )]
    ModelDamaged {
        /// The model.
        model: String,
    },
    /// Memory for the cache or the buffers could not be had.
    #[error("no memory for the KV cache of model {model}; lower [runtime] kv_tokens or use a smaller model")]
    OutOfMemory {
        /// The model.
        model: String,
    },
    /// The weights give no finite result for this prompt.
    #[error("model {model} produced no finite numbers; its file is probably damaged")]
    NotFinite {
        /// The model.
        model: String,
    },
    /// A fault of the engine itself.
    #[error("the engine failed while computing; the journal has the details")]
    Fault,
}
