//! Chooses the next token from logits. Invariant: the choice depends on the logits, the parameters, the tokens so far
//! and the seed alone, so the same request with the same seed gives the same text.
mod params;
mod random;
mod sampler;

pub use params::{InvalidSampling, SamplingParams};
pub use sampler::{Candidates, Chosen, Sampler, top_logprobs};
