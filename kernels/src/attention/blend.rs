//! The weighted values of a block, added to what some rows have so far.
//!
//! Invariant: a row's sums run over positions in order, whichever rows and columns go together.

use super::ahead::Ahead;
use super::cache::KV_BLOCK;
use super::value::{Rows, Value};
use crate::shards::Shards;
use crate::simd::Simd;

/// What adds the weighted values of a block to what some rows have so far.
pub(super) struct Blend<'a, T, const R: usize> {
    pub(super) out: &'a Shards<'a, f32>,
    /// Where the rows lie in out.
    pub(super) at: [usize; R],
    pub(super) v: Rows<'a, T>,
    pub(super) end: usize,
    pub(super) weights: &'a [[f32; KV_BLOCK]; R],
    pub(super) shrink: [f32; R],
}

impl<T: Value, const R: usize> Blend<'_, T, R> {
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    fn out(&self, r: usize, d: usize, len: usize) -> &mut [f32] {
        // SAFETY: a piece's rows are its own, it runs on one thread, and takes one part of a row at a time.
        unsafe { self.out.part(self.at[r] + d, len) }
    }

    /// Columns `d..d + N * LANES`.
    // Indices name registers here: the loops over rows and vectors unroll.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    pub(super) fn columns<S: Simd, const N: usize>(&self, s: S, d: usize, ahead: &mut Ahead) {
        let v = self.v;
        assert!(self.end <= KV_BLOCK && v.values.len() >= self.end * v.dim && d + N * S::LANES <= v.dim);
        let mut sums = [[s.splat(0.0); N]; R];
        for r in 0..R {
            let shrink = s.splat(self.shrink[r]);
            let so_far = self.out(r, d, N * S::LANES);
            for n in 0..N {
                sums[r][n] = s.mul(shrink, s.load(&so_far[n * S::LANES..]));
            }
        }
        for j in 0..self.end {
            ahead.ask(s);
            let mut weights = [s.splat(0.0); R];
            for r in 0..R {
                weights[r] = s.splat(self.weights[r][j]);
            }
            for n in 0..N {
                // SAFETY: `d + N * LANES <= dim`, and `v` has rows of `dim` up to `end`.
                let values = unsafe { v.load_at(s, j, d + n * S::LANES) };
                for r in 0..R {
                    sums[r][n] = s.fma(weights[r], values, sums[r][n]);
                }
            }
        }
        for r in 0..R {
            let out = self.out(r, d, N * S::LANES);
            for n in 0..N {
                s.store(&mut out[n * S::LANES..], sums[r][n]);
            }
        }
    }

    /// The columns from `d` on, fewer than a vector.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    pub(super) fn rest<S: Simd>(&self, s: S, d: usize) {
        let width = self.v.dim - d;
        let mut sums = [s.splat(0.0); R];
        for r in 0..R {
            sums[r] = s.mul(s.splat(self.shrink[r]), s.load_some(self.out(r, d, width)));
        }
        for j in 0..self.end {
            let values = self.v.load_rest(s, j, d);
            for r in 0..R {
                sums[r] = s.fma(s.splat(self.weights[r][j]), values, sums[r]);
            }
        }
        for r in 0..R {
            s.store_some(self.out(r, d, width), sums[r]);
        }
    }
}
