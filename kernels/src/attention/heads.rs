//! What becomes of a step's queries, keys and values before attention: the norms of heads, the rotary embedding and the
//! write to the cache, in one pass.
//!
//! Invariant: a piece owns its tokens: their rows of q and k and their slots of the cache, which no other piece names.

use super::cache::{Half, KV_BLOCK, Shape, with_store};
use super::value::Value;
use super::{KvLayer, Span};
use crate::norm::norm_row;
use crate::pool::Pool;
use crate::rope::{RopeLayout, turn};
use crate::shards::Shards;
use crate::simd::{Kernel, Simd};

/// Tokens of a piece: some microseconds of work.
const TOKENS: usize = 4;

/// The RMS norms of heads that some models have.
#[derive(Clone, Copy)]
pub struct HeadNorms<'a> {
    /// Weights for a query head, `[head_dim]`.
    pub q: &'a [f32],
    /// Weights for a key head, `[head_dim]`.
    pub k: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
}

/// The angles of a step's tokens.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines, already scaled, `[tokens, pairs]`; a head turns its first `2 * pairs` values.
    pub cos: &'a [f32],
    /// Sines, likewise.
    pub sin: &'a [f32],
    /// Pairs of a head; 0 turns nothing.
    pub pairs: usize,
    /// Which values are pairs.
    pub layout: RopeLayout,
}

/// Norms and turns the heads of every span's tokens, in place, and writes their keys and values to the cache. q:
/// `[tokens, heads, head_dim]` (empty: keys and values alone); k, v: `[tokens, kv_heads, head_dim]`. In an f16 cache
/// values are rounded to nearest even, and those beyond 65504 become infinite; a q8 cache rounds to 127ths of the
/// largest of 32 values.
///
/// # Panics
/// If shapes disagree, spans overlap or are not in order of `first`, a block is missing, or two spans write to one block.
#[allow(clippy::too_many_arguments)]
pub fn place_heads(
    pool: &Pool,
    layer: &mut KvLayer,
    q: &mut [f32],
    k: &mut [f32],
    v: &[f32],
    spans: &[Span<'_>],
    norms: Option<HeadNorms<'_>>,
    rotation: Rotation<'_>,
) {
    let shape = layer.shape;
    let dim = shape.head_dim;
    let tokens = k.len().checked_div(shape.kv_heads * dim).unwrap_or(0);
    assert!(
        k.len() == v.len() && k.len() == tokens * shape.kv_heads * dim,
        "k, v are [tokens, kv_heads, head_dim]"
    );
    let heads = q.len().checked_div(tokens * dim).unwrap_or(0);
    assert!(q.len() == tokens * heads * dim, "q is [tokens, heads, head_dim]");
    assert!(
        rotation.cos.len() >= tokens * rotation.pairs
            && rotation.sin.len() >= tokens * rotation.pairs
            && 2 * rotation.pairs <= dim,
        "cos, sin are [tokens, pairs]"
    );
    if let Some(norms) = norms {
        assert!(
            norms.q.len() == dim && norms.k.len() == dim,
            "norms are of a head"
        );
    }
    let rows = super::rows_of(spans);
    assert!(rows <= tokens, "spans lie within k");
    assert!(written_once(spans), "two spans write to one block");
    let step = Step {
        shape,
        heads,
        q: Shards::new(q),
        k: Shards::new(k),
        v,
        norms,
        rotation,
    };
    with_store!(&mut layer.store, halves => place(pool, &step, halves, spans));
}

/// Whether no block gets rows of two spans, or two stretches of one.
fn written_once(spans: &[Span<'_>]) -> bool {
    let written = |span: &Span<'_>| {
        let (first, end) = (
            span.start / KV_BLOCK,
            (span.start + span.tokens).div_ceil(KV_BLOCK),
        );
        first..if span.tokens == 0 { first } else { end }
    };
    spans.iter().enumerate().all(|(index, span)| {
        let blocks = &span.blocks[written(span)];
        let twice = (1..blocks.len()).any(|at| blocks[at..].contains(&blocks[at - 1]));
        let shared = |other: &Span<'_>| blocks.iter().any(|b| other.blocks[written(other)].contains(b));
        !twice && !spans[index + 1..].iter().any(shared)
    })
}

/// What all pieces share.
struct Step<'a> {
    shape: Shape,
    heads: usize,
    q: Shards<'a, f32>,
    k: Shards<'a, f32>,
    v: &'a [f32],
    norms: Option<HeadNorms<'a>>,
    rotation: Rotation<'a>,
}

/// One half of the cache, written by many.
struct Target<'a, T> {
    values: Shards<'a, T>,
    scales: Shards<'a, f32>,
}

fn place<T: Value>(pool: &Pool, step: &Step<'_>, cache: &mut [Half<T>; 2], spans: &[Span<'_>]) {
    let [k, v] = cache;
    let cache = [k, v].map(|half| Target {
        values: Shards::new(&mut half.values),
        scales: Shards::new(&mut half.scales),
    });
    let pieces = spans.iter().map(|span| span.tokens.div_ceil(TOKENS)).sum();
    pool.run(pieces, &|mut piece| {
        for span in spans {
            let pieces = span.tokens.div_ceil(TOKENS);
            if piece < pieces {
                let first = piece * TOKENS;
                return pool.level().run(Piece {
                    step,
                    cache: &cache,
                    span,
                    tokens: first..span.tokens.min(first + TOKENS),
                });
            }
            piece -= pieces;
        }
    });
}

/// Some tokens of a span.
struct Piece<'a, T> {
    step: &'a Step<'a>,
    cache: &'a [Target<'a, T>; 2],
    span: &'a Span<'a>,
    tokens: std::ops::Range<usize>,
}

impl<T: Value> Kernel for Piece<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (step, span) = (self.step, self.span);
        let (dim, kv_heads) = (step.shape.head_dim, step.shape.kv_heads);
        for token in self.tokens.clone() {
            let (row, position) = (span.first + token, span.start + token);
            let at = row * step.heads * dim;
            // SAFETY: spans do not overlap and a token belongs to one piece, so that its row is ours alone.
            let q = unsafe { step.q.part(at, step.heads * dim) };
            step.ready(s, q, row, step.norms.map(|norms| norms.q));
            let width = kv_heads * dim;
            // SAFETY: as for q.
            let k = unsafe { step.k.part(row * width, width) };
            step.ready(s, k, row, step.norms.map(|norms| norms.k));
            let v = &step.v[row * width..(row + 1) * width];
            let (block, slot) = (span.blocks[position / KV_BLOCK], position % KV_BLOCK);
            for head in 0..kv_heads {
                let to = step.shape.row_of(block, head) + slot;
                let values = head * dim..(head + 1) * dim;
                self.store(s, 0, to, &k[values.clone()]);
                self.store(s, 1, to, &v[values]);
            }
        }
    }
}

impl<T: Value> Piece<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, half: usize, row: usize, from: &[f32]) {
        let (half, dim, scales) = (&self.cache[half], from.len(), T::scales(from.len()));
        // SAFETY: blocks are written by one span, its slots by the pieces of their tokens, so that this row is ours.
        let (values, scales) = unsafe {
            (
                half.values.part(row * dim, dim),
                half.scales.part(row * scales, scales),
            )
        };
        T::store_row(s, values, scales, from);
    }
}

impl Step<'_> {
    /// Norms and turns the heads of one token.
    #[inline(always)]
    fn ready<S: Simd>(&self, s: S, heads: &mut [f32], token: usize, norm: Option<&[f32]>) {
        let angles = token * self.rotation.pairs..(token + 1) * self.rotation.pairs;
        let (cos, sin) = (&self.rotation.cos[angles.clone()], &self.rotation.sin[angles]);
        for head in heads.chunks_exact_mut(self.shape.head_dim) {
            if let (Some(weight), Some(norms)) = (norm, &self.norms) {
                norm_row(s, head, weight, norms.eps);
            }
            turn(head, cos, sin, self.rotation.layout);
        }
    }
}
