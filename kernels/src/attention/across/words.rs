//! Scores and weighted values as sums of products of 16-bit whole numbers, which processors compute two at a time.
//!
//! Invariant: each query, key and row of values has a scale of its own, `|x| / MOST`, and so do a row's weights in a
//! block, by their sum: no sum of products can overflow (Cauchy and Schwarz), and none depends on what a row does not
//! see. The rounding of a vector is some 1e-4 of its length, as that of f16.

// Indices name registers here: the loops over vectors unroll.
#![allow(clippy::needless_range_loop)]

use super::{Means, VECTORS, Weights};
use crate::attention::ahead::Ahead;
use crate::attention::cache::KV_BLOCK;
use crate::attention::value::{Rows, Value};
use crate::simd::int8::Int8;
use crate::simd::{LANES_MAX, Simd};

/// The length of a vector in whole numbers; their rounding adds less than what lacks to 2^15.
const MOST: f32 = 32_700.0;

/// Sums of weights are at least that, so that one over them is a number.
const LEAST: f32 = 1e-30;

#[derive(Clone, Copy)]
pub(super) struct Words<T>(pub(super) T);

/// Values `d` and `d + half` of a vector are a pair.
fn half<S: Simd>(dim: usize) -> usize {
    dim.div_ceil(2).next_multiple_of(S::LANES)
}

/// Values of a row in pairs of rows.
fn padded<S: Simd>(dim: usize) -> usize {
    dim.next_multiple_of(S::LANES)
}

impl<T: Int8> Means<T::Floats> for Words<T> {
    fn query_rows(dim: usize) -> usize {
        dim.max(half::<T::Floats>(dim))
    }

    #[inline(always)]
    fn queries(self, s: T::Floats, q: &mut [f32], dim: usize, scale: f32) -> [[f32; LANES_MAX]; VECTORS] {
        let (lanes, half) = (T::Floats::LANES, half::<T::Floats>(dim));
        let width = VECTORS * lanes;
        let mut scales = [[0.0; LANES_MAX]; VECTORS];
        for (n, scales) in scales.iter_mut().enumerate() {
            let mut squares = s.splat(0.0);
            for q in q.chunks_exact(width).take(dim) {
                let v = s.load(&q[n * lanes..]);
                squares = s.fma(v, v, squares);
            }
            let mut factors = [0.0; LANES_MAX];
            s.store(scales, squares);
            for (factor, scale) in factors.iter_mut().zip(scales.iter_mut()) {
                (*factor, *scale) = unit(*scale);
            }
            let factors = s.load(&factors);
            for d in 0..half {
                let at = d * width + n * lanes;
                let a = scaled(s, q, at, d < dim, factors);
                let b = scaled(s, q, at + half * width, d + half < dim, factors);
                s.store(&mut q[at..], pair(s, a, b));
            }
            scales.iter_mut().for_each(|of| *of *= scale);
        }
        scales
    }

    #[inline(always)]
    fn keys<V: Value>(
        self,
        s: T::Floats,
        rows: Rows<'_, V>,
        count: usize,
        to: &mut [f32],
    ) -> [f32; KV_BLOCK] {
        let (lanes, half) = (T::Floats::LANES, half::<T::Floats>(rows.dim));
        let (factors, scales) = units(s, rows, count);
        for (row, to) in to.chunks_exact_mut(half).take(count).enumerate() {
            let factor = s.splat(factors[row]);
            for (d, to) in (0..half).step_by(lanes).zip(to.chunks_exact_mut(lanes)) {
                // SAFETY: `units` checked the rows.
                let (a, b) = unsafe { (rows.load(s, row, d), rows.load(s, row, d + half)) };
                s.store(to, pair(s, s.mul(a, factor), s.mul(b, factor)));
            }
        }
        scales
    }

    #[inline(always)]
    fn values<V: Value>(
        self,
        s: T::Floats,
        rows: Rows<'_, V>,
        count: usize,
        to: &mut [f32],
    ) -> [f32; KV_BLOCK] {
        let lanes = T::Floats::LANES;
        let (factors, scales) = units(s, rows, count);
        let tos = to.chunks_exact_mut(padded::<T::Floats>(rows.dim));
        for (row, to) in (0..count).step_by(2).zip(tos) {
            for (d, to) in (0..rows.dim).step_by(lanes).zip(to.chunks_exact_mut(lanes)) {
                // SAFETY: `units` checked the rows.
                let a = s.mul(unsafe { rows.load(s, row, d) }, s.splat(factors[row]));
                let b = if row + 1 < count {
                    // SAFETY: as above.
                    s.mul(unsafe { rows.load(s, row + 1, d) }, s.splat(factors[row + 1]))
                } else {
                    s.splat(0.0)
                };
                s.store(to, pair(s, a, b));
            }
        }
        scales
    }

    #[inline(always)]
    fn scores<const K: usize>(
        self,
        s: T::Floats,
        q: &[f32],
        q_scales: &[[f32; LANES_MAX]; VECTORS],
        (keys, scales): (&[f32], &[f32; KV_BLOCK]),
        dim: usize,
        end: usize,
        to: &mut [f32],
        ahead: &mut Ahead,
    ) {
        let lanes = T::Floats::LANES;
        let (width, half) = (VECTORS * lanes, half::<T::Floats>(dim));
        assert!(q.len() >= half * width && keys.len() >= KV_BLOCK * half && end <= KV_BLOCK);
        for (first, to) in (0..end).step_by(K).zip(to.chunks_exact_mut(K * width)) {
            let mut sums = [[s.splat_i32(0); VECTORS]; K];
            for d in 0..half {
                if d % 2 == 0 {
                    ahead.ask(s);
                }
                // SAFETY: q has `half` times the lanes of two vectors, and there are `KV_BLOCK` keys, a multiple of `K`.
                unsafe {
                    let q = q.as_ptr().add(d * width);
                    let rows = [s.bits_of(s.load_at(q)), s.bits_of(s.load_at(q.add(lanes)))];
                    for k in 0..K {
                        let key = s.splat_i32(word(keys.as_ptr().add((first + k) * half + d)));
                        for n in 0..VECTORS {
                            sums[k][n] = self.0.add_words(sums[k][n], rows[n], key);
                        }
                    }
                }
            }
            for k in 0..K {
                for n in 0..VECTORS {
                    let scale = s.mul(s.load(&q_scales[n]), s.splat(scales[first + k]));
                    s.store(
                        &mut to[k * width + n * lanes..],
                        s.mul(s.to_f32(sums[k][n]), scale),
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn weights(
        self,
        s: T::Floats,
        weights: &mut [f32],
        end: usize,
        scales: &[f32; KV_BLOCK],
    ) -> [<T::Floats as Simd>::F32; VECTORS] {
        let lanes = T::Floats::LANES;
        let width = VECTORS * lanes;
        let mut out = [s.splat(0.0); VECTORS];
        for n in 0..VECTORS {
            let mut sum = s.splat(0.0);
            for (i, weights) in weights.chunks_exact(width).take(end).enumerate() {
                sum = s.add(sum, s.mul(s.load(&weights[n * lanes..]), s.splat(scales[i])));
            }
            // What is not a number stays so.
            let sum = s.max(s.splat(LEAST), sum);
            let factor = s.div(s.splat(MOST), sum);
            for i in 0..end.div_ceil(2) {
                let at = 2 * i * width + n * lanes;
                let (odd, last) = (2 * i + 1, end - 1);
                let a = scaled(s, weights, at, true, s.mul(factor, s.splat(scales[2 * i])));
                let b = scaled(
                    s,
                    weights,
                    at + width,
                    odd < end,
                    s.mul(factor, s.splat(scales[odd.min(last)])),
                );
                s.store(&mut weights[i * width + n * lanes..], pair(s, a, b));
            }
            out[n] = s.mul(sum, s.splat(1.0 / MOST));
        }
        out
    }

    #[inline(always)]
    fn blend<const D: usize>(
        self,
        s: T::Floats,
        weights: Weights<'_, T::Floats>,
        values: &[f32],
        dim: usize,
        d: usize,
        o: &mut [f32],
    ) {
        let lanes = T::Floats::LANES;
        let (width, row, pairs) = (VECTORS * lanes, padded::<T::Floats>(dim), weights.end.div_ceil(2));
        assert!(weights.of.len() >= pairs * width && values.len() >= pairs * row && d + D <= row);
        let o = &mut o[d * width..][..D * width];
        let mut sums = [[s.splat_i32(0); VECTORS]; D];
        for i in 0..pairs {
            // SAFETY: there are so many rows of weights and of values, whose columns reach to `d + D`.
            unsafe {
                let weights = weights.of.as_ptr().add(i * width);
                let rows = [
                    s.bits_of(s.load_at(weights)),
                    s.bits_of(s.load_at(weights.add(lanes))),
                ];
                for k in 0..D {
                    let value = s.splat_i32(word(values.as_ptr().add(i * row + d + k)));
                    for n in 0..VECTORS {
                        sums[k][n] = self.0.add_words(sums[k][n], rows[n], value);
                    }
                }
            }
        }
        for k in 0..D {
            for n in 0..VECTORS {
                let o = &mut o[k * width + n * lanes..];
                let so_far = s.mul(s.load(o), weights.shrink[n]);
                s.store(o, s.fma(s.to_f32(sums[k][n]), weights.scale[n], so_far));
            }
        }
    }
}

/// A vector times factors, or zeros where it is not there.
#[inline(always)]
fn scaled<S: Simd>(s: S, from: &[f32], at: usize, is_there: bool, factors: S::F32) -> S::F32 {
    if is_there {
        s.mul(s.load(&from[at..]), factors)
    } else {
        s.splat(0.0)
    }
}

/// What a vector with this sum of squares is multiplied with, and the scale that it then has. What is not finite makes
/// the scale so.
#[inline(always)]
fn unit(squares: f32) -> (f32, f32) {
    let length = squares.sqrt();
    let factor = if length > 0.0 { MOST / length } else { 0.0 };
    (factor, length / MOST)
}

/// `unit` of each of the first rows.
#[inline(always)]
fn units<S: Simd, V: Value>(s: S, rows: Rows<'_, V>, count: usize) -> ([f32; KV_BLOCK], [f32; KV_BLOCK]) {
    rows.check(count);
    let (mut factors, mut scales) = ([0.0; KV_BLOCK], [0.0; KV_BLOCK]);
    for first in (0..count).step_by(4) {
        // Four sums at once, so that none waits for itself; of fewer rows, the last counts again.
        let mut squares = [s.splat(0.0); 4];
        for d in (0..rows.dim).step_by(S::LANES) {
            for i in 0..4 {
                // SAFETY: rows were checked.
                let v = unsafe { rows.load(s, (first + i).min(count - 1), d) };
                squares[i] = s.fma(v, v, squares[i]);
            }
        }
        for (row, squares) in (first..count).zip(s.sum4(squares)) {
            (factors[row], scales[row]) = unit(squares);
        }
    }
    (factors, scales)
}

/// Whole numbers next to `a` and `b`, as pairs of words.
#[inline(always)]
fn pair<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32 {
    let low = s.and(s.to_i32(s.round(a)), s.splat_i32(0xffff));
    s.float_of(s.or(low, s.shl(s.to_i32(s.round(b)), 16)))
}

/// A pair of words.
///
/// # Safety
/// `at` is readable.
#[inline(always)]
unsafe fn word(at: *const f32) -> i32 {
    // SAFETY: as the caller says; any bits are a number.
    unsafe { at.cast::<i32>().read() }
}
