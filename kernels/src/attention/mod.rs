//! Causal attention over a paged cache of keys and values.
//!
//! Invariant: a token's result depends on its own span alone: neither on the batch around it, nor on which blocks its
//! table names, nor on the number of threads.

mod cache;

use half::f16;

use crate::pool::Pool;
use crate::reference;
use cache::Store;
pub use cache::{KV_BLOCK, KvFormat, KvLayer};

/// Consecutive tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Row of its first token in q, k, v and out.
    pub first: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Position of its first token in the sequence.
    pub start: usize,
    /// The sequence's blocks, in order of position; they cover `start + tokens` positions.
    pub blocks: &'a [u32],
}

/// Writes the rows of every span into the cache. k, v: `[tokens, kv_heads, head_dim]`.
///
/// # Panics
/// If a span reaches beyond `k`, `v` or its blocks, or names a block that the layer lacks.
pub fn kv_write(_pool: &Pool, layer: &mut KvLayer, k: &[f32], v: &[f32], spans: &[Span<'_>]) {
    let (shape, dim) = (layer.shape, layer.shape.head_dim);
    for span in spans {
        for t in 0..span.tokens {
            let position = span.start + t;
            for head in 0..shape.kv_heads {
                let from = ((span.first + t) * shape.kv_heads + head) * dim;
                let to = shape.head_at(span.blocks[position / KV_BLOCK], head) + position % KV_BLOCK * dim;
                for d in 0..dim {
                    match &mut layer.store {
                        Store::F32 { k: keys, v: values } => {
                            keys[to + d] = k[from + d];
                            values[to + d] = v[from + d];
                        }
                        Store::F16 { k: keys, v: values } => {
                            keys[to + d] = f16::from_f32(k[from + d]).to_bits();
                            values[to + d] = f16::from_f32(v[from + d]).to_bits();
                        }
                    }
                }
            }
        }
    }
}

/// Causal attention. q, out: `[tokens, heads, head_dim]`; query head `h` reads key head `h / (heads / kv_heads)`.
/// The token at position `p` sees positions `p + 1 - window ..= p` of its own span. No allocation.
///
/// # Panics
/// If shapes disagree, spans overlap or are not in order of `first`, or a block is missing.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    _pool: &Pool,
    layer: &KvLayer,
    q: &[f32],
    heads: usize,
    spans: &[Span<'_>],
    scale: f32,
    window: Option<usize>,
    out: &mut [f32],
) {
    let (kv_heads, dim) = (layer.shape.kv_heads, layer.shape.head_dim);
    for span in spans {
        let seen = span.start + span.tokens;
        let (mut k, mut v) = (vec![0.0; seen * kv_heads * dim], vec![0.0; seen * kv_heads * dim]);
        for (row, (k, v)) in k.chunks_exact_mut(dim).zip(v.chunks_exact_mut(dim)).enumerate() {
            let position = row / kv_heads;
            layer.read(
                span.blocks[position / KV_BLOCK],
                row % kv_heads,
                position % KV_BLOCK,
                k,
                v,
            );
        }
        let rows = span.first * heads * dim..(span.first + span.tokens) * heads * dim;
        let sequence = reference::Sequence {
            k: &k,
            v: &v,
            kv_heads,
            head_dim: dim,
        };
        reference::attend(
            sequence,
            &q[rows.clone()],
            heads,
            span.start,
            scale,
            window,
            &mut out[rows],
        );
    }
}
