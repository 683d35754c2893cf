//! Sums of formats whose scales are for 32 columns.
//!
//! Invariant: `dot` of a group is exact; `acc = fma(dot, scale_w * scale_x, acc)`, then, where there are minimums,
//! `acc = fma(min_w, scale_x * sum(x), acc)`, group after group in order of columns.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use super::{Activations, Fetch, Sums, dots, fetch_ahead, keeps_offset};
use crate::input::{Group, Input};
use crate::packed::layout::{FOURS, GROUP};
use crate::packed::registers::{Kind, Strip, codes, scale_and_min};
use crate::simd::Simd;
use crate::simd::int8::{F32, I32, Int8};

impl Sums for Group {
    fn rows(input: &Input) -> (&[i8], &[Group]) {
        input.by_32()
    }

    #[inline(always)]
    unsafe fn sums<T: Int8, K: Kind, const P: usize, const R: usize>(
        t: T,
        strips: [Strip; P],
        half: usize,
        x: Activations<Group>,
        fetch: Fetch,
    ) -> [[F32<T>; R]; P] {
        let s = t.floats();
        let zero = s.splat(0.0);
        let mut acc = [[zero; R]; P];
        for group in 0..x.cols / GROUP {
            for p in 0..P {
                let at = strips[p].codes.wrapping_add(group * K::LAYOUT.group_codes());
                fetch_ahead::<T, K, P>(t, strips[p], group, fetch);
                // SAFETY: the panel has such a group, and x such a group in each of its rows.
                unsafe {
                    let codes = codes::<T, K>(t, at);
                    let scales = strips[p].scales.add(group * K::LAYOUT.block_scales());
                    let (scale, min) = scale_and_min::<T, K>(t, scales, half, 0, (zero, zero));
                    let mut starts = [s.splat_i32(0); R];
                    for r in 0..R {
                        starts[r] = start::<T, K>(t, x.unit(r, group).minus_sum);
                    }
                    let dots = dots::<T, K, FOURS, R>(t, starts, &codes, x.values(group * GROUP));
                    for r in 0..R {
                        let g = x.unit(r, group);
                        acc[p][r] = s.fma(s.to_f32(dots[r]), s.mul(scale, s.splat(g.scale)), acc[p][r]);
                        if K::LAYOUT.mins {
                            acc[p][r] = s.fma(min, s.splat(g.scaled_sum), acc[p][r]);
                        }
                    }
                }
            }
        }
        acc
    }
}

/// What the sum of a group begins with: minus the offset for each activation.
#[inline(always)]
fn start<T: Int8, K: Kind>(t: T, minus_sum: i32) -> I32<T> {
    let s = t.floats();
    if keeps_offset::<T, K>() {
        s.splat_i32(minus_sum << K::LAYOUT.offset.trailing_zeros())
    } else {
        s.splat_i32(0)
    }
}
