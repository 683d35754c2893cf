//! What activations are made from: given floats, a norm of them, or the product of a gated unit.
//!
//! Invariant: a value depends on its own row alone.

use crate::act::silu_times;
use crate::norm::sum_of_squares;
use crate::simd::Simd;

/// How many values ahead of those in use others are asked for: gates of prompts are more than a core's caches hold.
const AHEAD: usize = 512;

/// Values of rows, computed when they are converted.
pub(super) trait Source: Sync {
    /// Whether a row's values need the whole row, so that it cannot be split.
    const WHOLE_ROWS: bool;
    /// What the values of `row` are multiplied with.
    fn factor<S: Simd>(&self, s: S, row: usize, cols: usize) -> f32;
    /// Values from column `at` of the row that begins at `start`: as many as `out` has, at most a vector.
    fn values<S: Simd>(&self, s: S, start: usize, at: usize, factor: f32, out: &mut [f32]);
}

pub(super) struct Plain<'a> {
    pub x: &'a [f32],
}

impl Source for Plain<'_> {
    const WHOLE_ROWS: bool = false;

    #[inline(always)]
    fn factor<S: Simd>(&self, _: S, _: usize, _: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    fn values<S: Simd>(&self, _: S, start: usize, at: usize, _: f32, out: &mut [f32]) {
        out.copy_from_slice(&self.x[start + at..][..out.len()]);
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019), as in `norm`.
pub(super) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
}

impl Source for RmsNorm<'_> {
    const WHOLE_ROWS: bool = true;

    #[inline(always)]
    fn factor<S: Simd>(&self, s: S, row: usize, cols: usize) -> f32 {
        let mean = sum_of_squares(s, &self.x[row * cols..][..cols]) / cols as f32;
        1.0 / (mean + self.eps).sqrt()
    }

    #[inline(always)]
    fn values<S: Simd>(&self, s: S, start: usize, at: usize, factor: f32, out: &mut [f32]) {
        let x = s.load_some(&self.x[start + at..][..out.len()]);
        let w = s.load_some(&self.weight[at..][..out.len()]);
        s.store_some(out, s.mul(s.mul(x, s.splat(factor)), w));
    }
}

/// `silu(gate) * up`
pub(super) struct SiluMul<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
}

impl Source for SiluMul<'_> {
    const WHOLE_ROWS: bool = false;

    #[inline(always)]
    fn factor<S: Simd>(&self, _: S, _: usize, _: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    fn values<S: Simd>(&self, s: S, start: usize, at: usize, _: f32, out: &mut [f32]) {
        let (gate, up) = (&self.gate[start + at..], &self.up[start + at..]);
        s.prefetch(gate.as_ptr().wrapping_add(AHEAD).cast());
        s.prefetch(up.as_ptr().wrapping_add(AHEAD).cast());
        let gate = s.load_some(&gate[..out.len()]);
        let up = s.load_some(&up[..out.len()]);
        s.store_some(out, silu_times(s, gate, up));
    }
}
