//! Sequences, scheduler, KV blocks, forward step and sampling: turns token ids into token ids, for many requests at once.
//!
//! Plain threads behind a bounded queue; nothing here is async. Invariant: one engine thread owns all caches and all
//! running sequences, so nothing that computes is ever locked.
#![forbid(unsafe_code)]

mod blocks;
mod emit;
mod engine;
pub mod forward;
mod kv;
mod model;
mod options;
mod pace;
mod queue;
mod request;
mod runtime;
mod sampling;
mod sequence;
mod shares;
pub mod speculation;
mod stop;

/// Tokens in one block of a KV cache.
pub use hyprstream_kernels::KV_BLOCK;

pub use blocks::{BlockTable, OutOfBlocks};
pub use engine::{Engine, StartError, Stats, SubmitError};
pub use kv::{KvBlocks, KvCache};
pub use model::{LoadError, LoadOptions, Model};
pub use options::{MemoryPlan, Options, SEQUENCES_MAX};
pub use request::{EngineError, Progress, Request, Sink};
pub use sampling::{InvalidSampling, Sampler, SamplingParams};
