//! Root-mean-square norms and the residual sum.
//!
//! Invariant: rows are independent of each other; a row's sum has one fixed order.

use crate::pool::Pool;
use crate::reference;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, for each row of `weight.len()`.
///
/// # Panics
/// If `x` is not whole rows, or `out` differs from it in length.
pub fn rms_norm(_pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(
        x.len() == out.len() && x.len().is_multiple_of(weight.len()),
        "whole rows"
    );
    reference::rms_norm(x, weight, eps, out);
}

/// `rms_norm` with `out` being `x`: rows of head_dim of queries and keys.
///
/// # Panics
/// If `x` is not whole rows.
pub fn rms_norm_in_place(_pool: &Pool, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(x.len().is_multiple_of(weight.len()), "whole rows");
    let copy = x.to_vec();
    reference::rms_norm(&copy, weight, eps, x);
}

/// `x += y`
///
/// # Panics
/// If lengths differ.
pub fn add(_pool: &Pool, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    reference::add(x, y);
}
