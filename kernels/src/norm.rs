//! Root-mean-square norms.
//!
//! Invariant: rows are independent of each other; a row's sum has one fixed order.

use crate::pool::Pool;
use crate::shards::each_part;
use crate::simd::{Kernel, Simd};

/// Values of one piece, about: a few microseconds of work, so that small inputs stay on the calling thread.
const PIECE_VALUES: usize = 16 << 10;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, for each row of `weight.len()` (Zhang and Sennrich, 2019).
///
/// # Panics
/// If `x` is not whole rows, or `out` differs from it in length.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    norm_rows(pool, Some(x), weight, eps, out);
}

/// `rms_norm` with `out` being `x`: rows of head_dim of queries and keys.
///
/// # Panics
/// If `x` is not whole rows.
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], weight: &[f32], eps: f32) {
    norm_rows(pool, None, weight, eps, x);
}

fn norm_rows(pool: &Pool, x: Option<&[f32]>, weight: &[f32], eps: f32, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert!(out.len().is_multiple_of(weight.len()), "whole rows");
    let len = (PIECE_VALUES / weight.len()).max(1) * weight.len();
    each_part(pool, out, len, &|at, out| {
        let x = x.map(|x| &x[at..at + out.len()]);
        pool.level().run(Norm { x, weight, eps, out });
    });
}

/// Rows of `out`, computed from `x` or from themselves.
struct Norm<'a> {
    x: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, out) in self.out.chunks_exact_mut(self.weight.len()).enumerate() {
            if let Some(x) = self.x {
                out.copy_from_slice(&x[row * self.weight.len()..][..self.weight.len()]);
            }
            norm_row(s, out, self.weight, self.eps);
        }
    }
}

/// One row of the norm, in place.
#[inline(always)]
pub(crate) fn norm_row<S: Simd>(s: S, row: &mut [f32], weight: &[f32], eps: f32) {
    let mean = sum_of_squares(s, row) / weight.len() as f32;
    let scale = s.splat(1.0 / (mean + eps).sqrt());
    let (mut values, mut weights) = (row.chunks_exact_mut(S::LANES), weight.chunks_exact(S::LANES));
    for (x, w) in (&mut values).zip(&mut weights) {
        s.store(x, s.mul(s.mul(s.load(x), scale), s.load(w)));
    }
    let (x, w) = (values.into_remainder(), weights.remainder());
    s.store_some(x, s.mul(s.mul(s.load_some(x), scale), s.load_some(w)));
}

#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    // Four chains, since one would wait for each multiplication.
    let mut sums = [s.splat(0.0); 4];
    let mut fours = x.chunks_exact(4 * S::LANES);
    for four in &mut fours {
        for (sum, x) in sums.iter_mut().zip(four.chunks_exact(S::LANES)) {
            let x = s.load(x);
            *sum = s.fma(x, x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(fours.remainder().chunks(S::LANES)) {
        let x = s.load_some(x);
        *sum = s.fma(x, x, *sum);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
