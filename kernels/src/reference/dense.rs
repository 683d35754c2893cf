//! Products, norms, rotation and activation, as their papers write them.
//!
//! Invariant: sums and transcendental functions are in f64, rounded once at the end.

use super::decode_row;
use crate::matmul::MatrixRef;
use crate::rope::RopeLayout;

/// `y[t, o] = sum_i w[o, i] * x[t, i] (+ bias[o])`; x: `[tokens, cols]`, y: `[tokens, rows]`.
pub fn matmul(w: MatrixRef<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let mut row = vec![0.0; w.cols];
    for o in 0..w.rows {
        decode_row(w.format, w.row(o), &mut row);
        for t in 0..y.len() / w.rows {
            let x = &x[t * w.cols..(t + 1) * w.cols];
            let sum: f64 = row
                .iter()
                .zip(x)
                .map(|(&w, &x)| f64::from(w) * f64::from(x))
                .sum();
            y[t * w.rows + o] = (sum + bias.map_or(0.0, |b| f64::from(b[o]))) as f32;
        }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `weight.len()` (Zhang and Sennrich, 2019).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x
        .chunks_exact(weight.len())
        .zip(out.chunks_exact_mut(weight.len()))
    {
        let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = (f64::from(x) * scale * f64::from(w)) as f32;
        }
    }
}

/// Turns pairs of each head by the token's angles (Su et al., 2021). Shapes as in the crate's `rope`.
#[allow(clippy::too_many_arguments)]
pub fn rope(
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    rope_dims: usize,
    layout: RopeLayout,
) {
    let pairs = rope_dims / 2;
    for (row, head) in x.chunks_exact_mut(head_dim).enumerate() {
        let token = row / heads;
        for i in 0..pairs {
            let (a, b) = match layout {
                RopeLayout::Half => (i, i + pairs),
                RopeLayout::Interleaved => (2 * i, 2 * i + 1),
            };
            let (c, s) = (
                f64::from(cos[token * pairs + i]),
                f64::from(sin[token * pairs + i]),
            );
            let (p, q) = (f64::from(head[a]), f64::from(head[b]));
            head[a] = (p * c - q * s) as f32;
            head[b] = (q * c + p * s) as f32;
        }
    }
}

/// `gate = gate / (1 + exp(-gate)) * up`
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let g = f64::from(*gate);
        *gate = (g / (1.0 + (-g).exp()) * f64::from(up)) as f32;
    }
}

/// `logits[index] - log(sum(exp(logits)))`
pub fn log_softmax_at(logits: &[f32], index: usize) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&l| (f64::from(l) - f64::from(max)).exp())
        .sum();
    (f64::from(logits[index]) - f64::from(max) - sum.ln()) as f32
}
