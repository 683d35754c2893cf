//! Products of up to 2 x 2 tiles of bf16, over any number of steps of k.
//!
//! Invariant: each element is one sum over k in order, in f32, whatever the block's shape: a row's result does not
//! depend on which rows are beside it.

use super::instructions::{tile_dpbf16ps, tile_load, tile_store, tile_zero};
use super::tiles::Tiles;

/// Where the tiles of an operand lie. All distances in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Area {
    /// The first tile.
    pub at: *const u8,
    /// From row to row of a tile.
    pub stride: usize,
    /// From a tile to the one of the next step of k.
    pub step: usize,
    /// From a tile to the one beside it: the next 16 rows of A or columns of B.
    pub beside: usize,
}

/// Where the f32 tiles of the product lie. All distances in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub at: *mut u8,
    /// From row to row.
    pub stride: usize,
    /// From a tile to the one below it (the next 16 rows).
    pub below: usize,
    /// From a tile to the one beside it (the next 16 columns).
    pub beside: usize,
}

/// `C = A B`, or `C += A B` with `add`, for `M` x `N` (each 1 or 2) tiles and `steps` steps of 32 values of k.
/// A: `[16 rows][32 bf16]`; B: `[16 pairs of k][16 columns x 2 bf16]`; C: `[16 rows][16 f32]`.
///
/// # Safety
/// All tiles of the areas, with the rows that the configuration gives to tiles 4 and 5 (A), 6 and 7 (B) and 0 to 3
/// (C), are readable, and those of `c` writable by us alone.
#[inline(always)]
pub(crate) unsafe fn multiply_block<const M: usize, const N: usize>(
    _: &Tiles,
    a: Area,
    b: Area,
    c: Target,
    steps: usize,
    add: bool,
) {
    const { assert!(M >= 1 && M <= 2 && N >= 1 && N <= 2) };
    let (right, down) = (c.at.wrapping_add(c.beside), c.at.wrapping_add(c.below));
    let corner = down.wrapping_add(c.beside);
    // SAFETY: the caller's promise about the areas; a `Tiles` lives.
    unsafe {
        if add {
            tile_load!("tmm0", c.at, c.stride);
            if N == 2 {
                tile_load!("tmm1", right, c.stride);
            }
            if M == 2 {
                tile_load!("tmm2", down, c.stride);
            }
            if M == 2 && N == 2 {
                tile_load!("tmm3", corner, c.stride);
            }
        } else {
            tile_zero!("tmm0");
            tile_zero!("tmm1");
            tile_zero!("tmm2");
            tile_zero!("tmm3");
        }
        let (mut at_a, mut at_b) = (a.at, b.at);
        for _ in 0..steps {
            tile_load!("tmm6", at_b, b.stride);
            tile_load!("tmm4", at_a, a.stride);
            tile_dpbf16ps!("tmm0", "tmm4", "tmm6");
            if N == 2 {
                tile_load!("tmm7", at_b.wrapping_add(b.beside), b.stride);
                tile_dpbf16ps!("tmm1", "tmm4", "tmm7");
            }
            if M == 2 {
                tile_load!("tmm5", at_a.wrapping_add(a.beside), a.stride);
                tile_dpbf16ps!("tmm2", "tmm5", "tmm6");
                if N == 2 {
                    tile_dpbf16ps!("tmm3", "tmm5", "tmm7");
                }
            }
            at_a = at_a.wrapping_add(a.step);
            at_b = at_b.wrapping_add(b.step);
        }
        tile_store!("tmm0", c.at, c.stride);
        if N == 2 {
            tile_store!("tmm1", right, c.stride);
        }
        if M == 2 {
            tile_store!("tmm2", down, c.stride);
        }
        if M == 2 && N == 2 {
            tile_store!("tmm3", corner, c.stride);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Amx, Shapes};
    use super::*;

    fn bf16(v: f32) -> u16 {
        half::bf16::from_f32(v).to_bits()
    }

    /// Small whole numbers, so that every order of addition gives the same sum.
    fn number(seed: usize) -> f32 {
        (seed * 2_654_435_761 % 15) as f32 - 7.0
    }

    fn check<const M: usize, const N: usize>(amx: Amx, steps: usize, add: bool) {
        let (a_tile, b_tile) = (16 * 32, 16 * 32);
        let a: Vec<u16> = (0..M * steps * a_tile).map(|i| bf16(number(i))).collect();
        let b: Vec<u16> = (0..N * steps * b_tile).map(|i| bf16(number(i + 7))).collect();
        let start = if add { 3.0f32 } else { 0.0 };
        let mut c = vec![3.0f32; 16 * M * 32];
        let area = |v: &[u16]| Area {
            at: v.as_ptr().cast(),
            stride: 64,
            step: 1024,
            beside: steps * 1024,
        };
        let target = Target {
            at: c.as_mut_ptr().cast(),
            stride: 128,
            below: 16 * 128,
            beside: 64,
        };
        let tiles = Tiles::new(amx, &Shapes::FULL);
        // SAFETY: the vectors have all tiles of the areas.
        unsafe { multiply_block::<M, N>(&tiles, area(&a), area(&b), target, steps, add) };
        drop(tiles);
        let value = |v: &[u16], i: usize| half::bf16::from_bits(v[i]).to_f32();
        for row in 0..16 * M {
            for col in 0..16 * N {
                let mut sum = start;
                for k in 0..32 * steps {
                    let at_a = ((row / 16 * steps + k / 32) * 16 + row % 16) * 32 + k % 32;
                    let at_b = ((col / 16 * steps + k / 32) * 16 + k % 32 / 2) * 32 + col % 16 * 2 + k % 2;
                    sum += value(&a, at_a) * value(&b, at_b);
                }
                assert_eq!(c[row * 32 + col], sum, "{M}x{N}, row {row}, column {col}");
            }
        }
    }

    #[test]
    fn blocks_of_tiles_are_products() {
        let Some(amx) = Amx::detect() else {
            eprintln!("SKIPPED: this machine has no AMX, or the system refuses it");
            return;
        };
        for steps in [0, 1, 5] {
            for add in [false, true] {
                check::<1, 1>(amx, steps, add);
                check::<1, 2>(amx, steps, add);
                check::<2, 1>(amx, steps, add);
                check::<2, 2>(amx, steps, add);
            }
        }
    }
}
