//! The online softmax of sixteen queries at once, one in each lane.
//!
//! Invariant: lanes never meet; a position that a query does not see weighs exactly zero and changes nothing.

use std::arch::x86_64::*;

use super::Line;
use super::convert::{TILE, pairs, read, write};

/// `2^f` for `0 <= f < 1` within 1e-7, highest power first: least greatest relative error by Lawson's iteration.
const POLYNOMIAL: [f32; 6] = [
    1.877_575e-3,
    8.989_344e-3,
    5.582_631_4e-2,
    0.240_153_61,
    0.693_153_1,
    0.999_999_94,
];

/// What each of sixteen queries sees of a chunk: positions `first..=last`, from the chunk's beginning.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    pub(super) first: [i32; TILE],
    pub(super) last: [i32; TILE],
}

/// The greatest score so far and the sum of weights of sixteen queries.
#[derive(Clone, Copy)]
pub(super) struct State {
    max: Line,
    sum: Line,
}

impl State {
    pub(super) const EMPTY: State = State {
        max: Line([f32::NEG_INFINITY.to_bits(); 16]),
        sum: Line([0; 16]),
    };

    /// One over the sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn inverse(&self) -> __m512 {
        _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_castsi512_ps(read(&self.sum)))
    }

    /// Takes the scores of `2 * weights.len()` positions in and writes their weights as
    /// pairs of bf16. Returns by how much earlier sums shrink, if any does. `exponent` is the scale of scores times
    /// log2 e.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) fn take(
        &mut self,
        scores: &mut [Line],
        sight: Option<&Sight>,
        exponent: f32,
        weights: &mut [Line],
    ) -> Option<__m512> {
        let count = 2 * weights.len();
        if let Some(sight) = sight {
            hide(scores, sight, count);
        }
        let before = _mm512_castsi512_ps(read(&self.max));
        let mut maxima = [before; 4];
        for four in scores[..count].chunks_exact(4) {
            for (max, line) in maxima.iter_mut().zip(four) {
                *max = _mm512_max_ps(_mm512_castsi512_ps(read(line)), *max);
            }
        }
        let [a, b, c, d] = maxima;
        let max = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
        let factor = _mm512_set1_ps(exponent);
        // Nothing seen yet: weights must be 2^-inf, not 2^(inf - inf).
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(max, _mm512_set1_ps(f32::NEG_INFINITY));
        let offset = _mm512_maskz_sub_ps(some, _mm512_setzero_ps(), _mm512_mul_ps(max, factor));
        let mut sums = [_mm512_setzero_ps(); 4];
        for (four, pair) in scores[..count].chunks_exact(4).zip(weights.chunks_exact_mut(2)) {
            let mut w = [_mm512_setzero_ps(); 4];
            for ((w, line), sum) in w.iter_mut().zip(four).zip(&mut sums) {
                *w = power(_mm512_fmadd_ps(_mm512_castsi512_ps(read(line)), factor, offset));
                *sum = _mm512_add_ps(*sum, *w);
            }
            write(&mut pair[0], pairs(w[0], w[1]));
            write(&mut pair[1], pairs(w[2], w[3]));
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        let one = _mm512_set1_ps(1.0);
        let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(max, before);
        let shrink = _mm512_mask_mov_ps(power(_mm512_fmadd_ps(before, factor, offset)), same, one);
        let earlier = _mm512_castsi512_ps(read(&self.sum));
        write(
            &mut self.sum,
            _mm512_castps_si512(_mm512_fmadd_ps(earlier, shrink, sum)),
        );
        write(&mut self.max, _mm512_castps_si512(max));
        (same != 0xffff).then_some(shrink)
    }
}

/// Makes the scores of what a query does not see the least.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn hide(scores: &mut [Line], sight: &Sight, count: usize) {
    // SAFETY: both are sixteen numbers of 32 bits.
    let (first, last) = unsafe {
        (
            _mm512_loadu_si512(sight.first.as_ptr().cast()),
            _mm512_loadu_si512(sight.last.as_ptr().cast()),
        )
    };
    let least = _mm512_set1_epi32(f32::NEG_INFINITY.to_bits().cast_signed());
    for (position, line) in scores[..count].iter_mut().enumerate() {
        let position = _mm512_set1_epi32(position as i32);
        let seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
        write(line, _mm512_mask_mov_epi32(least, seen, read(line)));
    }
}

/// `2^x`; 0 for minus infinity.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn power(x: __m512) -> __m512 {
    // What is left of x above the whole number below it; `scalef` rounds x down itself.
    let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut p = _mm512_set1_ps(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(*c));
    }
    _mm512_scalef_ps(p, x)
}
