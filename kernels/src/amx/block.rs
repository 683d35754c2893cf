//! Products of up to 2 x 2 tiles of bf16, over any number of steps of k.
//!
//! Invariant: each element is one sum over k in order, in f32, whatever the block's shape: a row's result does not
//! depend on which rows are beside it.
//!
//! An operand may come in two parts, a high one and a low one that is at most 2^-8 of it: `(a + a')(b + b')` is then summed
//! as `a'b + ab + ab'`. The product of both low parts is left out: it is at most 2^-16, as what rounding took from either.

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
/// A: `[16 rows][32 bf16]`; B: `[16 pairs of k][16 columns x 2 bf16]`; C: `[16 rows][16 f32]`. A comes in `PA` parts, B in
/// `PB` (each 1 or 2).
///
/// # Safety
/// All tiles of the areas, with the rows that the configuration gives to tiles 4 and 5 (A), 6 and 7 (B) and 0 to 3
/// (C), are readable, and those of `c` writable by us alone.
#[inline(always)]
pub(crate) unsafe fn multiply_block<const M: usize, const N: usize, const PA: usize, const PB: usize>(
    _: &Tiles,
    a: Area,
    b: Area,
    c: Target,
    steps: usize,
    add: bool,
) {
    const { assert!(M >= 1 && M <= 2 && N >= 1 && N <= 2) };
    const { assert!(PA >= PB && PA <= 2 && PB >= 1) };
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
        let (mut a, mut b) = (a, b);
        for _ in 0..steps {
            step::<M, N, PA, PB>(a, b);
            a.at = a.at.wrapping_add(a.step);
            b.at = b.at.wrapping_add(b.step);
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

/// One step of k. Each tile is loaded once: A's low parts go before the high ones, which then meet B's low parts too.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn step<const M: usize, const N: usize, const PA: usize, const PB: usize>(a: Area, b: Area) {
    let first = a.at.wrapping_add(if PA == 2 { a.low } else { 0 });
    // SAFETY: the caller's promise.
    unsafe {
        tile_load!("tmm6", b.at, b.stride);
        if N == 2 {
            tile_load!("tmm7", b.at.wrapping_add(b.beside), b.stride);
        }
        tile_load!("tmm4", first, a.stride);
        products_above::<N>();
        if M == 2 {
            tile_load!("tmm5", first.wrapping_add(a.beside), a.stride);
            products_below::<N>();
        }
        if PA == 2 {
            tile_load!("tmm4", a.at, a.stride);
            products_above::<N>();
            if M == 2 {
                tile_load!("tmm5", a.at.wrapping_add(a.beside), a.stride);
                products_below::<N>();
            }
        }
        if PB == 2 {
            let low = b.at.wrapping_add(b.low);
            tile_load!("tmm6", low, b.stride);
            if N == 2 {
                tile_load!("tmm7", low.wrapping_add(b.beside), b.stride);
            }
            products_above::<N>();
            if M == 2 {
                products_below::<N>();
            }
        }
    }
}

/// The upper tile of A with what is loaded of B.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn products_above<const N: usize>() {
    // SAFETY: the caller's promise.
    unsafe {
        tile_dpbf16ps!("tmm0", "tmm4", "tmm6");
        if N == 2 {
            tile_dpbf16ps!("tmm1", "tmm4", "tmm7");
        }
    }
}

/// As `products_above`, the lower tile.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn products_below<const N: usize>() {
    // SAFETY: the caller's promise.
    unsafe {
        tile_dpbf16ps!("tmm2", "tmm5", "tmm6");
        if N == 2 {
            tile_dpbf16ps!("tmm3", "tmm5", "tmm7");
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

    fn check<const M: usize, const N: usize, const PA: usize, const PB: usize>(
        amx: Amx,
        steps: usize,
        add: bool,
    ) {
        const TILE: usize = 16 * 32;
        let a: Vec<u16> = (0..M * steps * PA * TILE).map(|i| bf16(number(i))).collect();
        let b: Vec<u16> = (0..N * steps * PB * TILE).map(|i| bf16(number(i + 7))).collect();
        let start = if add { 3.0f32 } else { 0.0 };
        let mut c = vec![3.0f32; 16 * M * 32];
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
            below: 16 * 128,
            beside: 64,
        };
        let tiles = Tiles::new(amx, &Shapes::FULL);
        // SAFETY: the vectors have all tiles of the areas.
        unsafe { multiply_block::<M, N, PA, PB>(&tiles, area(&a, PA), area(&b, PB), target, steps, add) };
        drop(tiles);
        // A tile's place, and the element's in it.
        let value = |v: &[u16], tile: usize, at: usize| half::bf16::from_bits(v[tile * TILE + at]).to_f32();
        for row in 0..16 * M {
            for col in 0..16 * N {
                let mut sum = start;
                for k in 0..32 * steps {
                    let (tile_a, tile_b) = (row / 16 * steps + k / 32, col / 16 * steps + k / 32);
                    let at_a = row % 16 * 32 + k % 32;
                    let at_b = k % 32 / 2 * 32 + col % 16 * 2 + k % 2;
                    for (low_a, low_b) in [(0, 0), (1, 0), (0, 1)] {
                        if low_a < PA && low_b < PB {
                            sum +=
                                value(&a, tile_a * PA + low_a, at_a) * value(&b, tile_b * PB + low_b, at_b);
                        }
                    }
                }
                assert_eq!(
                    c[row * 32 + col],
                    sum,
                    "{M}x{N}, {PA} {PB}, row {row}, column {col}"
                );
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
        check::<1, 1, PA, PB>(amx, steps, add);
        check::<1, 2, PA, PB>(amx, steps, add);
        check::<2, 1, PA, PB>(amx, steps, add);
        check::<2, 2, PA, PB>(amx, steps, add);
    }
}
