//! Rotary position embedding.
//!
//! Invariant: values beyond `rope_dims` of a head stay as they are.

use crate::pool::Pool;
use crate::shards::each_part;
use crate::simd::{Kernel, Simd};

/// Which two values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// `(i, i + rope_dims / 2)`, as GPT-NeoX and Hugging Face have it.
    Half,
    /// `(2i, 2i + 1)`, as the paper and GGUF's llama have it.
    Interleaved,
}

/// Values of one piece, about: a few microseconds of work.
const PIECE_VALUES: usize = 16 << 10;

/// Turns the first `rope_dims` of each head. x: `[tokens, heads, head_dim]`; cos, sin: `[tokens, rope_dims / 2]`,
/// already scaled.
///
/// # Panics
/// If shapes disagree.
#[allow(clippy::too_many_arguments)]
pub fn rope(
    pool: &Pool,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    rope_dims: usize,
    layout: RopeLayout,
) {
    let (row, pairs) = (heads * head_dim, rope_dims / 2);
    if x.is_empty() || pairs == 0 {
        return;
    }
    assert!(
        rope_dims.is_multiple_of(2) && rope_dims <= head_dim,
        "rope_dims are pairs within a head"
    );
    assert!(x.len().is_multiple_of(row), "x is [tokens, heads, head_dim]");
    assert!(
        cos.len() == x.len() / row * pairs && sin.len() == cos.len(),
        "cos, sin are [tokens, rope_dims / 2]"
    );
    each_part(pool, x, (PIECE_VALUES / row).max(1) * row, &|at, x| {
        let angles = at / row * pairs..(at + x.len()) / row * pairs;
        pool.level().run(Rope {
            x,
            row,
            head_dim,
            cos: &cos[angles.clone()],
            sin: &sin[angles],
            pairs,
            layout,
        });
    });
}

/// Whole tokens, with their angles.
struct Rope<'a> {
    x: &'a mut [f32],
    row: usize,
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    pairs: usize,
    layout: RopeLayout,
}

impl Kernel for Rope<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let angles = self
            .cos
            .chunks_exact(self.pairs)
            .zip(self.sin.chunks_exact(self.pairs));
        for (token, (cos, sin)) in self.x.chunks_exact_mut(self.row).zip(angles) {
            for head in token.chunks_exact_mut(self.head_dim) {
                match self.layout {
                    RopeLayout::Half => turn_halves(&mut head[..2 * self.pairs], cos, sin),
                    RopeLayout::Interleaved => turn_pairs(&mut head[..2 * self.pairs], cos, sin),
                }
            }
        }
    }
}

// Plain loops: inside a kernel the compiler makes vectors of them.

#[inline(always)]
fn turn_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for ((a, b), (c, s)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[inline(always)]
fn turn_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ([a, b], (c, s)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
