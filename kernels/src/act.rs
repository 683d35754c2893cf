//! Activation functions and the log-probability of one token.
//!
//! Invariant: element-wise; no value depends on its neighbours (the logarithm of the softmax sums in f64).

use crate::pool::Pool;
use crate::reference;

/// `gate = silu(gate) * up`
///
/// # Panics
/// If lengths differ.
pub fn silu_mul(_pool: &Pool, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    reference::silu_mul(gate, up);
}

/// The natural logarithm of the softmax at `index`; sums in f64.
///
/// # Panics
/// If `index` is out of range.
pub fn log_softmax_at(logits: &[f32], index: usize) -> f32 {
    reference::log_softmax_at(logits, index)
}
