//! Causal attention over a paged cache of keys and values.
//!
//! Invariant: a token's result depends on its own span alone: neither on the batch around it, nor on which blocks its
//! table names, nor on the number of threads.

mod across;
mod ahead;
mod attend;
mod blend;
mod cache;
mod cut;
mod heads;
mod pages;
mod value;
#[cfg(target_arch = "x86_64")]
mod wide;

use crate::isa::Isa;
pub use attend::attend;
pub use cache::{KV_BLOCK, KvFormat, KvLayer};
pub use heads::{HeadNorms, Rotation, place_heads};

/// Bytes that attention keeps for the threads of a pool, from the first prompt on until they end. Nothing else is
/// allocated.
pub fn attend_scratch_bytes(isa: Isa, threads: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        return threads.saturating_mul(across::SCRATCH_BYTES + wide::SCRATCH_BYTES);
    }
    let _ = isa;
    threads.saturating_mul(across::SCRATCH_BYTES)
}

/// Consecutive tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Row of its first token in q, k, v and out.
    pub first: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Position of its first token in the sequence.
    pub start: usize,
    /// Tokens of a prompt, whose attention takes a path for many rows (tiles of bf16 where the processor has them). The
    /// role decides and never the number of tokens, so that a token's result does not depend on its neighbours.
    pub prefill: bool,
    /// The sequence's blocks, in order of position; they cover `start + tokens` positions.
    pub blocks: &'a [u32],
}

/// Rows up to the end of the last span. Pieces write without looking at each other, so that a row must belong to one
/// span alone.
///
/// # Panics
/// If spans overlap or are not in order.
fn rows_of(spans: &[Span<'_>]) -> usize {
    let mut end = 0;
    for span in spans {
        assert!(span.first >= end, "spans lie one after the other");
        end = span.first.saturating_add(span.tokens);
    }
    end
}
