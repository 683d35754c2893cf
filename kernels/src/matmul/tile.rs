//! Several tokens: a tile of weights is decoded once and multiplied with all of them, four rows by a few tokens in
//! registers.
//!
//! Invariant: sums run as in `rows`, so that a token's result is the same alone and in a batch.

use super::{CHUNK, Part};
use crate::quant::decode::{Decoder, decode_into};
use crate::simd::Simd;

/// Rows of a tile: enough that reading the activations costs little beside multiplying with them.
pub(super) const ROWS: usize = 16;

/// Room for one tile, which each thread keeps.
#[repr(align(64))]
pub(super) struct Tile([f32; ROWS * CHUNK]);

impl Tile {
    pub(super) const EMPTY: Tile = Tile([0.0; ROWS * CHUNK]);
}

/// Multiplies rows `first..first + rows` (at most `ROWS`) with all tokens.
#[inline(always)]
pub(super) fn multiply<S: Simd, D: Decoder>(
    s: S,
    part: &Part<'_>,
    first: usize,
    rows: usize,
    tile: &mut Tile,
) {
    debug_assert!(rows <= ROWS);
    for from in (0..part.w.cols).step_by(CHUNK) {
        let len = CHUNK.min(part.w.cols - from);
        let stride = len.next_multiple_of(S::LANES);
        let tile = &mut tile.0[..rows.next_multiple_of(4) * stride];
        for (r, row) in tile.chunks_exact_mut(stride).enumerate() {
            let (row, pad) = row.split_at_mut(len);
            pad.fill(0.0);
            if r < rows {
                let bytes = &part.row(first + r)[from / D::LEN * D::BYTES..];
                decode_into::<S, D>(s, bytes, row);
            } else {
                row.fill(0.0);
            }
        }
        for token in (0..part.tokens).step_by(S::TOKENS) {
            for (four, tile) in tile.chunks_exact(4 * stride).enumerate() {
                let row = 4 * four;
                let place = Place {
                    from,
                    len,
                    stride,
                    token,
                    row: first + row,
                    rows: (rows - row).min(4),
                };
                match S::TOKENS.min(part.tokens - token) {
                    1 => block::<S, 1>(s, part, tile, place),
                    2 => block::<S, 2>(s, part, tile, place),
                    3 => block::<S, 3>(s, part, tile, place),
                    4 => block::<S, 4>(s, part, tile, place),
                    5 => block::<S, 5>(s, part, tile, place),
                    _ => block::<S, 6>(s, part, tile, place),
                }
            }
        }
    }
}

/// What a block covers: columns `from..from + len`, tokens from `token`, rows `row..row + rows`.
#[derive(Clone, Copy)]
struct Place {
    from: usize,
    len: usize,
    stride: usize,
    token: usize,
    row: usize,
    rows: usize,
}

/// Adds the products of four rows of the tile with `T` tokens to `y`.
// Indices name registers here: the loops over rows and tokens unroll. Closures that `core` would call are kept out,
// since they are not always inlined, and then run without the vector instructions.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn block<S: Simd, const T: usize>(s: S, part: &Part<'_>, tile: &[f32], place: Place) {
    let Place {
        from,
        len,
        stride,
        token,
        row,
        rows,
    } = place;
    let mut x: [&[f32]; T] = [&[]; T];
    for (t, x) in x.iter_mut().enumerate() {
        *x = &part.x[(token + t) * part.w.cols + from..][..len];
    }
    assert!(tile.len() == 4 * stride && stride >= len);
    let mut sums = [[s.splat(0.0); 4]; T];
    let whole = len - len % S::LANES;
    let mut at = 0;
    while at < whole {
        let mut inputs = [s.splat(0.0); T];
        for (t, input) in inputs.iter_mut().enumerate() {
            // SAFETY: `at + LANES <= len`, which is the length of each x.
            *input = unsafe { s.load_at(x[t].as_ptr().add(at)) };
        }
        for r in 0..4 {
            // SAFETY: `at + LANES <= stride`, and the tile has four rows of `stride`.
            let w = unsafe { s.load_at(tile.as_ptr().add(r * stride + at)) };
            for t in 0..T {
                sums[t][r] = s.fma(w, inputs[t], sums[t][r]);
            }
        }
        at += S::LANES;
    }
    if whole < len {
        for t in 0..T {
            let x = s.load_some(&x[t][whole..]);
            for r in 0..4 {
                sums[t][r] = s.fma(s.load(&tile[r * stride + whole..]), x, sums[t][r]);
            }
        }
    }
    for (t, sums) in sums.into_iter().enumerate() {
        let sums = s.sum4(sums);
        // SAFETY: these rows of `y` belong to this piece alone, and the piece runs on one thread.
        let y = unsafe { part.y.part((token + t) * part.w.rows + row, rows) };
        if from == 0 && !part.add {
            // As added to zero, which makes a negative zero positive.
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y = 0.0 + sum);
        } else {
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
        }
    }
}
