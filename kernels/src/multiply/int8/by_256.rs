//! Sums of formats with blocks of 256 columns, whose groups have whole numbers as scales.
//!
//! Invariant: of a block, `dot = sum(scale_g * sum((code - offset) * x))` and `low = sum(min_g * sum(x))` are exact;
//! `acc = fma(fma(dot, d, low * -dmin), scale_x, acc)`, or without minimums `acc = fma(dot * d, scale_x, acc)`, block
//! after block in order of columns.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use super::{Activations, Fetch, Sums, dots, fetch_ahead, keeps_offset};
use crate::input::{Input, Super};
use crate::packed::layout::{FOURS, GROUP, SUPER};
use crate::packed::registers::{Kind, Strip, codes, head, pair_of_mins, pair_of_scales, scale};
use crate::simd::Simd;
use crate::simd::int8::{F32, I32, Int8};

impl Sums for Super {
    fn rows(input: &Input) -> (&[i8], &[Super]) {
        input.by_256()
    }

    #[inline(always)]
    unsafe fn sums<T: Int8, K: Kind, const P: usize, const R: usize>(
        t: T,
        strips: [Strip; P],
        half: usize,
        x: Activations<Super>,
        fetch: Fetch,
    ) -> [[F32<T>; R]; P] {
        let s = t.floats();
        let mut acc = [[s.splat(0.0); R]; P];
        for block in 0..x.cols / SUPER {
            let mut sums = [[s.splat_i32(0); R]; P];
            for part in 0..SUPER / GROUP {
                for p in 0..P {
                    let group = block * (SUPER / GROUP) + part;
                    let at = strips[p].codes.wrapping_add(group * K::LAYOUT.group_codes());
                    fetch_ahead::<T, K, P>(t, strips[p], group, fetch);
                    // SAFETY: the panel has such a group and block, and x such a block in each of its rows.
                    unsafe {
                        let codes = codes::<T, K>(t, at);
                        let scales = strips[p].scales.add(block * K::LAYOUT.block_scales());
                        add_group::<T, K, R>(t, &codes, scales, half, (block, part), x, &mut sums[p]);
                    }
                }
            }
            for p in 0..P {
                // SAFETY: as above.
                unsafe {
                    let scales = strips[p].scales.add(block * K::LAYOUT.block_scales());
                    add_block::<T, K, R>(t, scales, half, block, x, &sums[p], &mut acc[p]);
                }
            }
        }
        acc
    }
}

/// Adds the dot products of 32 columns, times their scales.
///
/// # Safety
/// `scales` are those of the block; x has block `at.0`, of which the codes are group `at.1`.
#[inline(always)]
unsafe fn add_group<T: Int8, K: Kind, const R: usize>(
    t: T,
    codes: &[T::Codes; FOURS],
    scales: *const u8,
    half: usize,
    at: (usize, usize),
    x: Activations<Super>,
    sums: &mut [I32<T>; R],
) {
    let s = t.floats();
    let zero = s.splat_i32(0);
    let col = at.0 * SUPER + at.1 * GROUP;
    // SAFETY: the caller's promises are those of each call below.
    unsafe {
        if K::LAYOUT.group == GROUP {
            let scale = scale::<T, K>(t, scales, half, at.1);
            let dots = dots::<T, K, FOURS, R>(t, [zero; R], codes, x.values(col));
            for r in 0..R {
                sums[r] = s.add_i32(sums[r], t.mul_i32(dots[r], scale));
            }
            return;
        }
        for i in 0..2 {
            let scale = scale::<T, K>(t, scales, half, 2 * at.1 + i);
            let codes = [codes[4 * i], codes[4 * i + 1], codes[4 * i + 2], codes[4 * i + 3]];
            let dots = dots::<T, K, 4, R>(t, [zero; R], &codes, x.values(col + i * GROUP / 2));
            for r in 0..R {
                sums[r] = s.add_i32(sums[r], t.mul_i32(dots[r], scale));
            }
        }
    }
}

/// Adds what a block contributes.
///
/// # Safety
/// `scales` are those of the block, and x has it.
#[inline(always)]
unsafe fn add_block<T: Int8, K: Kind, const R: usize>(
    t: T,
    scales: *const u8,
    half: usize,
    block: usize,
    x: Activations<Super>,
    sums: &[I32<T>; R],
    acc: &mut [F32<T>; R],
) {
    let s = t.floats();
    let layout = K::LAYOUT;
    let pairs = SUPER / layout.group / 2;
    // What sums of x are multiplied with.
    let mut factors = [s.splat_i32(0); SUPER / 32];
    // SAFETY: the block has so many pairs of groups; x has the block.
    unsafe {
        for pair in 0..pairs {
            if layout.mins {
                factors[pair] = pair_of_mins::<T, K>(t, scales, half, pair);
            } else if keeps_offset::<T, K>() {
                factors[pair] = pair_of_scales::<T, K>(t, scales, half, pair);
            }
        }
        let (d, minus_dmin) = head::<T, K>(t, scales, half);
        for r in 0..R {
            let unit = x.unit(r, block);
            let mut low = s.splat_i32(0);
            if layout.mins || keeps_offset::<T, K>() {
                for pair in 0..pairs {
                    let of_x = if layout.group == GROUP {
                        unit.sums_32[pair]
                    } else {
                        unit.sums_16[pair]
                    };
                    low = t.add_words(low, factors[pair], s.splat_i32(of_x));
                }
            }
            let total = if layout.mins {
                s.fma(s.to_f32(sums[r]), d, s.mul(s.to_f32(low), minus_dmin))
            } else {
                let offset = s.splat_i32(-(layout.offset as i32));
                let dot = if keeps_offset::<T, K>() {
                    s.add_i32(sums[r], t.mul_i32(low, offset))
                } else {
                    sums[r]
                };
                s.mul(s.to_f32(dot), d)
            };
            acc[r] = s.fma(total, s.splat(unit.scale), acc[r]);
        }
    }
}
