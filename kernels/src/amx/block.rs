//! Products of 16 rows with up to two tiles of columns, over any number of steps of k.
//!
//! Invariant: each element is one sum over k in order, in f32, whatever the block's shape: a row's result does not
//! depend on which columns are beside it.
//!
//! An operand may come in two parts, a high one and a low one that is at most 2^-8 of it: `(a + a')(b + b')` is then summed
//! as `a'b + ab + ab'`. The product of both low parts is left out: it is at most 2^-16, as what rounding took from either.
//!
//! Four tiles in all, though there are eight: a processor renames them from a file that at times has room for eight more
//! and at times for hardly any, as when the core's other thread is busy. With eight in use a product whose tiles are loaded then
//! takes 30 ns, with four 14, though these load more; where the file is large both take 8 (`cargo bench --bench speed -- 1 ""
//! tiles`).

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
    /// From a tile to that of its low parts, where it has some.
    pub low: usize,
    /// From a tile to the one beside it: the next 16 rows of A or columns of B.
    pub beside: usize,
}

impl Area {
    /// The area that begins `tiles` tiles beside this one.
    pub(crate) fn beside(self, tiles: usize) -> Area {
        let at = self.at.wrapping_add(tiles * self.beside);
        Area { at, ..self }
    }
}

/// Where the f32 tiles of the product lie. All distances in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub at: *mut u8,
    /// From row to row.
    pub stride: usize,
    /// From a tile to the one beside it (the next 16 columns).
    pub beside: usize,
}

/// `C = A B`, or `C += A B` with `add`, for a tile of rows and `N` (1 or 2) tiles of columns, and `steps` steps of 32 values
/// of k. A: `[16 rows][32 bf16]`; B: `[16 pairs of k][16 columns x 2 bf16]`; C: `[16 rows][16 f32]`. A comes in `PA` parts, B
/// in `PB` (each 1 or 2).
///
/// # Safety
/// All tiles of the areas, with the rows that the configuration gives to tiles 2 (A), 3 (B), 0 and 1 (C), are readable,
/// and those of `c` writable by us alone.
#[inline(always)]
pub(crate) unsafe fn multiply_block<const N: usize, const PA: usize, const PB: usize>(
    _: &Tiles,
    a: Area,
    b: Area,
    c: Target,
    steps: usize,
    add: bool,
) {
    const { assert!(N >= 1 && N <= 2) };
    const { assert!(PA >= PB && PA <= 2 && PB >= 1) };
    let right = c.at.wrapping_add(c.beside);
    // SAFETY: the caller's promise about the areas; a `Tiles` lives.
    unsafe {
        if add {
            tile_load!("tmm0", c.at, c.stride);
            if N == 2 {
                tile_load!("tmm1", right, c.stride);
            }
        } else {
            tile_zero!("tmm0");
            if N == 2 {
                tile_zero!("tmm1");
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..steps {
            step::<N, PA, PB>(a, b);
            a.at = a.at.wrapping_add(a.step);
            b.at = b.at.wrapping_add(b.step);
        }
        tile_store!("tmm0", c.at, c.stride);
        if N == 2 {
            tile_store!("tmm1", right, c.stride);
        }
    }
}

/// One step of k. A's low part goes before the high one.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn step<const N: usize, const PA: usize, const PB: usize>(a: Area, b: Area) {
    // SAFETY: the caller's promise.
    unsafe {
        if PA == 2 {
            tile_load!("tmm2", a.at.wrapping_add(a.low), a.stride);
            tile_load!("tmm3", b.at, b.stride);
            tile_dpbf16ps!("tmm0", "tmm2", "tmm3");
            if N == 2 {
                tile_load!("tmm3", b.at.wrapping_add(b.beside), b.stride);
                tile_dpbf16ps!("tmm1", "tmm2", "tmm3");
            }
            // Back again, with the tile of B that is there.
            tile_load!("tmm2", a.at, a.stride);
            if N == 2 {
                tile_dpbf16ps!("tmm1", "tmm2", "tmm3");
                tile_load!("tmm3", b.at, b.stride);
            }
            tile_dpbf16ps!("tmm0", "tmm2", "tmm3");
        } else {
            tile_load!("tmm2", a.at, a.stride);
            products::<N>(b, 0);
        }
        if PB == 2 {
            products::<N>(b, b.low);
        }
    }
}

/// The tile of A that is there with those of B, or with their low parts.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn products<const N: usize>(b: Area, part: usize) {
    let at = b.at.wrapping_add(part);
    // SAFETY: the caller's promise.
    unsafe {
        tile_load!("tmm3", at, b.stride);
        tile_dpbf16ps!("tmm0", "tmm2", "tmm3");
        if N == 2 {
            tile_load!("tmm3", at.wrapping_add(b.beside), b.stride);
            tile_dpbf16ps!("tmm1", "tmm2", "tmm3");
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

    fn check<const N: usize, const PA: usize, const PB: usize>(amx: Amx, steps: usize, add: bool) {
        const TILE: usize = 16 * 32;
        let a: Vec<u16> = (0..steps * PA * TILE).map(|i| bf16(number(i))).collect();
        let b: Vec<u16> = (0..N * steps * PB * TILE).map(|i| bf16(number(i + 7))).collect();
        let start = if add { 3.0f32 } else { 0.0 };
        let mut c = vec![3.0f32; 16 * 32];
        let area = |v: &[u16], parts: usize| Area {
            at: v.as_ptr().cast(),
            stride: 64,
            step: parts * 1024,
            low: 1024,
            beside: steps * parts * 1024,
        };
        let target = Target {
            at: c.as_mut_ptr().cast(),
            stride: 128,
            beside: 64,
        };
        let tiles = Tiles::new(amx, &Shapes::FULL);
        // SAFETY: the vectors have all tiles of the areas.
        unsafe { multiply_block::<N, PA, PB>(&tiles, area(&a, PA), area(&b, PB), target, steps, add) };
        drop(tiles);
        // A tile's place, and the element's in it.
        let value = |v: &[u16], tile: usize, at: usize| half::bf16::from_bits(v[tile * TILE + at]).to_f32();
        for row in 0..16 {
            for col in 0..16 * N {
                let mut sum = start;
                for k in 0..32 * steps {
                    let (tile_a, tile_b) = (k / 32, col / 16 * steps + k / 32);
                    let at_a = row * 32 + k % 32;
                    let at_b = k % 32 / 2 * 32 + col % 16 * 2 + k % 2;
                    for (low_a, low_b) in [(0, 0), (1, 0), (0, 1)] {
                        if low_a < PA && low_b < PB {
                            sum +=
                                value(&a, tile_a * PA + low_a, at_a) * value(&b, tile_b * PB + low_b, at_b);
                        }
                    }
                }
                assert_eq!(c[row * 32 + col], sum, "{N}, {PA} {PB}, row {row}, column {col}");
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
                check_shapes::<1, 1>(amx, steps, add);
                check_shapes::<2, 1>(amx, steps, add);
                check_shapes::<2, 2>(amx, steps, add);
            }
        }
    }

    fn check_shapes<const PA: usize, const PB: usize>(amx: Amx, steps: usize, add: bool) {
        check::<1, PA, PB>(amx, steps, add);
        check::<2, PA, PB>(amx, steps, add);
    }
}
