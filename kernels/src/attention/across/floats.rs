//! Scores and weighted values in f32.
//!
//! Invariant: sums over a head and over positions are in order.

// Indices name registers here: the loops over vectors unroll.
#![allow(clippy::needless_range_loop)]

use super::{Means, VECTORS, Weights};
use crate::attention::ahead::Ahead;
use crate::attention::cache::KV_BLOCK;
use crate::attention::value::{Rows, Value};
use crate::simd::{LANES_MAX, Simd};

#[derive(Clone, Copy)]
pub(super) struct Floats;

impl<S: Simd> Means<S> for Floats {
    fn query_rows(dim: usize) -> usize {
        dim
    }

    #[inline(always)]
    fn queries(self, s: S, q: &mut [f32], _: usize, scale: f32) -> [[f32; LANES_MAX]; VECTORS] {
        for q in q.chunks_exact_mut(S::LANES) {
            let scaled = s.mul(s.load(q), s.splat(scale));
            s.store(q, scaled);
        }
        [[1.0; LANES_MAX]; VECTORS]
    }

    #[inline(always)]
    fn keys<T: Value>(self, s: S, rows: Rows<'_, T>, count: usize, to: &mut [f32]) -> [f32; KV_BLOCK] {
        convert(s, rows, count, to);
        [1.0; KV_BLOCK]
    }

    #[inline(always)]
    fn values<T: Value>(self, s: S, rows: Rows<'_, T>, count: usize, to: &mut [f32]) -> [f32; KV_BLOCK] {
        convert(s, rows, count, to);
        [1.0; KV_BLOCK]
    }

    #[inline(always)]
    fn scores<const K: usize>(
        self,
        s: S,
        q: &[f32],
        _: &[[f32; LANES_MAX]; VECTORS],
        keys: (&[f32], &[f32; KV_BLOCK]),
        dim: usize,
        end: usize,
        to: &mut [f32],
        ahead: &mut Ahead,
    ) {
        let (keys, width) = (keys.0, VECTORS * S::LANES);
        assert!(q.len() == dim * width && keys.len() >= KV_BLOCK * dim && end <= KV_BLOCK);
        for (first, to) in (0..end).step_by(K).zip(to.chunks_exact_mut(K * width)) {
            let mut sums = [[s.splat(0.0); VECTORS]; K];
            for d in 0..dim {
                if d % 4 == 0 {
                    ahead.ask(s);
                }
                // SAFETY: q has `dim` times the lanes of two vectors, and there are `KV_BLOCK` keys, a multiple of `K`.
                unsafe {
                    let q = q.as_ptr().add(d * width);
                    let rows = [s.load_at(q), s.load_at(q.add(S::LANES))];
                    for k in 0..K {
                        let key = s.splat(*keys.as_ptr().add((first + k) * dim + d));
                        for n in 0..VECTORS {
                            sums[k][n] = s.fma(key, rows[n], sums[k][n]);
                        }
                    }
                }
            }
            for k in 0..K {
                for n in 0..VECTORS {
                    s.store(&mut to[k * width + n * S::LANES..], sums[k][n]);
                }
            }
        }
    }

    #[inline(always)]
    fn weights(self, s: S, _: &mut [f32], _: usize, _: &[f32; KV_BLOCK]) -> [S::F32; VECTORS] {
        [s.splat(1.0); VECTORS]
    }

    #[inline(always)]
    fn blend<const D: usize>(
        self,
        s: S,
        weights: Weights<'_, S>,
        values: &[f32],
        dim: usize,
        d: usize,
        o: &mut [f32],
    ) {
        let width = VECTORS * S::LANES;
        let (end, shrink) = (weights.end, weights.shrink);
        assert!(weights.of.len() >= end * width && values.len() >= end * dim && d + D <= dim);
        let o = &mut o[d * width..][..D * width];
        let mut sums = [[s.splat(0.0); VECTORS]; D];
        for i in 0..D {
            for n in 0..VECTORS {
                sums[i][n] = s.mul(s.load(&o[i * width + n * S::LANES..]), shrink[n]);
            }
        }
        for position in 0..end {
            // SAFETY: there are `end` rows of weights and of values, whose columns reach to `d + D`.
            unsafe {
                let weights = weights.of.as_ptr().add(position * width);
                let rows = [s.load_at(weights), s.load_at(weights.add(S::LANES))];
                for i in 0..D {
                    let value = s.splat(*values.as_ptr().add(position * dim + d + i));
                    for n in 0..VECTORS {
                        sums[i][n] = s.fma(value, rows[n], sums[i][n]);
                    }
                }
            }
        }
        for i in 0..D {
            for n in 0..VECTORS {
                s.store(&mut o[i * width + n * S::LANES..], sums[i][n]);
            }
        }
    }
}

/// The first rows as floats.
#[inline(always)]
fn convert<S: Simd, T: Value>(s: S, rows: Rows<'_, T>, count: usize, to: &mut [f32]) {
    rows.check(count);
    for (row, to) in to.chunks_exact_mut(rows.dim).take(count).enumerate() {
        for (d, to) in (0..rows.dim).step_by(S::LANES).zip(to.chunks_mut(S::LANES)) {
            // SAFETY: rows were checked.
            s.store_some(to, unsafe { rows.load(s, row, d) });
        }
    }
}
