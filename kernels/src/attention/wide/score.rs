//! Scores of 32 positions by tiles: keys and queries in two parts each, of whose products the smallest is left out.
//!
//! Invariant: a score is one sum over the steps of a head in order, whatever tiles of queries are beside it.

use super::convert::TILE;
use super::{CHUNK, Line};
use crate::amx::{Tiles, tile_dpbf16ps, tile_load, tile_store, tile_zero};

/// Bytes from row to row of a tile.
const STRIDE: usize = 64;

/// Scores of two tiles of positions with `N` (1 or 2) tiles of queries. Each tile of keys and of queries is loaded
/// once for a step: loads that miss the first cache take longer than the products.
///
/// # Safety
/// `k` has two times `[low, high][steps]` tiles, `q` has `N` times `[high, low][steps]`; `s`, which is ours alone, has
/// 32 lines, and with `N` of 2 as many from `CHUNK` on.
#[inline(always)]
pub(super) unsafe fn score<const N: usize>(
    _: &Tiles,
    k: *const Line,
    q: *const Line,
    s: *mut Line,
    steps: usize,
) {
    const { assert!(N == 1 || N == 2) };
    let part = steps * TILE;
    let beside = 2 * part;
    // SAFETY: the caller's promise; a `Tiles` lives.
    unsafe {
        tile_zero!("tmm0");
        tile_zero!("tmm1");
        tile_zero!("tmm2");
        tile_zero!("tmm3");
        for step in 0..steps {
            let (k, q) = (k.wrapping_add(step * TILE), q.wrapping_add(step * TILE));
            // The high parts of keys with the low ones of queries.
            tile_load!("tmm6", q.wrapping_add(part), STRIDE);
            tile_load!("tmm4", k.wrapping_add(part), STRIDE);
            tile_dpbf16ps!("tmm0", "tmm4", "tmm6");
            tile_load!("tmm5", k.wrapping_add(part + beside), STRIDE);
            tile_dpbf16ps!("tmm2", "tmm5", "tmm6");
            if N == 2 {
                tile_load!("tmm7", q.wrapping_add(part + beside), STRIDE);
                tile_dpbf16ps!("tmm1", "tmm4", "tmm7");
                tile_dpbf16ps!("tmm3", "tmm5", "tmm7");
            }
            // The high parts of both.
            tile_load!("tmm6", q, STRIDE);
            tile_dpbf16ps!("tmm0", "tmm4", "tmm6");
            tile_dpbf16ps!("tmm2", "tmm5", "tmm6");
            if N == 2 {
                tile_load!("tmm7", q.wrapping_add(beside), STRIDE);
                tile_dpbf16ps!("tmm1", "tmm4", "tmm7");
                tile_dpbf16ps!("tmm3", "tmm5", "tmm7");
            }
            // The low parts of keys.
            tile_load!("tmm4", k, STRIDE);
            tile_dpbf16ps!("tmm0", "tmm4", "tmm6");
            tile_load!("tmm5", k.wrapping_add(beside), STRIDE);
            tile_dpbf16ps!("tmm2", "tmm5", "tmm6");
            if N == 2 {
                tile_dpbf16ps!("tmm1", "tmm4", "tmm7");
                tile_dpbf16ps!("tmm3", "tmm5", "tmm7");
            }
        }
        tile_store!("tmm0", s, STRIDE);
        tile_store!("tmm2", s.wrapping_add(TILE), STRIDE);
        if N == 2 {
            tile_store!("tmm1", s.wrapping_add(CHUNK), STRIDE);
            tile_store!("tmm3", s.wrapping_add(CHUNK + TILE), STRIDE);
        }
    }
}
