//! One token: rows of weights are decoded in registers and multiplied at once.
//!
//! Invariant: sums run as in `tile`: one vector of partial sums a row and chunk of `CHUNK` columns, chunks added up in
//! order.

use super::CHUNK;
use crate::quant::decode::{Decoder, padded};
use crate::simd::Simd;

/// `start` plus the dot products of `R` (at most 4) rows with `x`; the other results mean nothing.
#[inline(always)]
pub(super) fn dot<S: Simd, D: Decoder, const R: usize>(
    s: S,
    rows: [&[u8]; R],
    x: &[f32],
    start: [f32; 4],
) -> [f32; 4] {
    let mut total = start;
    for (index, x) in x.chunks(CHUNK).enumerate() {
        let from = index * (CHUNK / D::LEN) * D::BYTES;
        let mut chunk: [&[u8]; R] = [&[]; R];
        for (chunk, row) in chunk.iter_mut().zip(rows) {
            *chunk = &row[from..];
        }
        let sums = dot_chunk::<S, D, R>(s, chunk, x);
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    total
}

#[inline(always)]
fn dot_chunk<S: Simd, D: Decoder, const R: usize>(s: S, rows: [&[u8]; R], x: &[f32]) -> [f32; 4] {
    let mut sums = [s.splat(0.0); 4];
    let steps = x.chunks_exact(D::LEN);
    let rest = steps.remainder();
    let mut at = 0;
    for x in steps {
        for r in 0..R {
            let mut sum = sums[r];
            D::step(
                s,
                &rows[r][at..at + D::BYTES],
                #[inline(always)]
                |i, w| sum = s.fma(w, s.load(&x[i..]), sum),
            );
            sums[r] = sum;
        }
        at += D::BYTES;
    }
    if !rest.is_empty() {
        let mut x = [0.0; 32];
        x[..rest.len()].copy_from_slice(rest);
        for r in 0..R {
            let mut sum = sums[r];
            D::step(
                s,
                &padded::<D>(&rows[r][at..at + rest.len() * D::BYTES / D::LEN]),
                #[inline(always)]
                |i, w| sum = s.fma(w, s.load(&x[i..]), sum),
            );
            sums[r] = sum;
        }
    }
    s.sum4(sums)
}
