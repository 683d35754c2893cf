//! Activation functions and the log-probability of one token.
//!
//! Invariant: element-wise; no value depends on its neighbours (the logarithm of the softmax sums in f64).

use crate::pool::Pool;
use crate::shards::each_part;
use crate::simd::{Kernel, Simd, exp};

/// Values of one piece, about: a few microseconds of work.
const PIECE_VALUES: usize = 4 << 10;

/// `gate = silu(gate) * up`
///
/// # Panics
/// If lengths differ.
pub fn silu_mul(pool: &Pool, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    each_part(pool, gate, PIECE_VALUES, &|at, gate| {
        let up = &up[at..at + gate.len()];
        pool.level().run(SiluMul { gate, up });
    });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut gates, mut ups) = (
            self.gate.chunks_exact_mut(S::LANES),
            self.up.chunks_exact(S::LANES),
        );
        for (gate, up) in (&mut gates).zip(&mut ups) {
            s.store(gate, silu_times(s, s.load(gate), s.load(up)));
        }
        let (gate, up) = (gates.into_remainder(), ups.remainder());
        s.store_some(gate, silu_times(s, s.load_some(gate), s.load_some(up)));
    }
}

#[inline(always)]
pub(crate) fn silu_times<S: Simd>(s: S, gate: S::F32, up: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let divisor = s.add(one, exp(s, s.sub(s.splat(0.0), gate)));
    s.mul(s.div(gate, divisor), up)
}

/// `ln(sum(exp(logits)))` over the finite logits, summed in f64. `None` if there is none. Runs on the calling thread.
pub fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    let max = finite().reduce(f32::max)?;
    let sum: f64 = finite().map(|logit| f64::from(logit - max).exp()).sum();
    Some(f64::from(max) + sum.ln())
}

/// The natural logarithm of the softmax at `index`; NaN if no logit is finite.
///
/// # Panics
/// If `index` is out of range.
pub fn log_softmax_at(logits: &[f32], index: usize) -> f32 {
    let logit = f64::from(logits[index]);
    log_sum_exp(logits).map_or(f32::NAN, |normalizer| (logit - normalizer) as f32)
}
