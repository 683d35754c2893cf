//! Blocks of 256 values whose groups of 16 or 32 have small scales of their own: the K formats and IQ4_XS.
//!
//! Invariant: as in the parent.

use super::{Decoder, IQ4_VALUES};
use crate::simd::Simd;

pub(crate) struct Q2K;
pub(crate) struct Q3K;
pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;
pub(crate) struct IQ4XS;

impl Decoder for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, dmin) = (s.half(&bytes[80..]), s.half(&bytes[82..]));
        for group in 0..16 {
            let scale = s.splat(d * f32::from(bytes[group] & 15));
            let min = s.splat(-(dmin * f32::from(bytes[group] >> 4)));
            // 32 bytes hold 128 values: two bits of each for every 32 of them.
            let (half, shift) = (group / 8, group % 8 / 2 * 2);
            for lane in (0..16).step_by(S::LANES) {
                let q = s.u8s(&bytes[16 + 32 * half + group % 2 * 16 + lane..]);
                let q = s.and(s.shr(q, shift as u32), s.splat_i32(3));
                sink(16 * group + lane, s.fma(scale, s.to_f32(q), min));
            }
        }
    }
}

/// Scales times d of the sixteen groups of a Q3_K block: four bits of each in the first eight bytes, two in the rest.
#[inline(always)]
fn scales_of_q3k<S: Simd>(s: S, bytes: &[u8]) -> [f32; 16] {
    let (packed, d) = (&bytes[96..108], s.half(&bytes[108..]));
    let mut scales = [0.0; 16];
    for (group, scale) in scales.iter_mut().enumerate() {
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
    }
    scales
}

impl Decoder for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let scales = scales_of_q3k(s, bytes);
        for (group, scale) in scales.into_iter().enumerate() {
            let (half, quarter, from) = (group / 8, group % 8 / 2, group % 2 * 16);
            for lane in (0..16).step_by(S::LANES) {
                let low = s.u8s(&bytes[32 + 32 * half + from + lane..]);
                let low = s.and(s.shr(low, 2 * quarter as u32), s.splat_i32(3));
                let high = s.shr(s.u8s(&bytes[from + lane..]), (4 * half + quarter) as u32);
                let high = s.shl(s.and(high, s.splat_i32(1)), 2);
                let q = s.add_i32(s.or(low, high), s.splat_i32(-4));
                sink(16 * group + lane, s.mul(s.splat(scale), s.to_f32(q)));
            }
        }
    }
}

/// Scales times d and minimums times -dmin of the eight groups of a Q4_K or Q5_K block.
#[inline(always)]
fn scales_and_mins<S: Simd>(s: S, bytes: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin) = (s.half(bytes), s.half(&bytes[2..]));
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (a, b, c) = (word(4), word(8), word(12));
    // Four 6-bit numbers at a time: groups 0..4 lie whole in `a` and `b`, groups 4..8 have their low nibbles in `c`
    // and their upper two bits at the top of `a` and `b`.
    let scales = [a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030)];
    let mins = [
        b & 0x3f3f_3f3f,
        ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030),
    ];
    let bytes_of = |words: [u32; 2]| (u64::from(words[0]) | u64::from(words[1]) << 32).to_le_bytes();
    let (scales, mins) = (bytes_of(scales), bytes_of(mins));
    let mut out = ([0.0; 8], [0.0; 8]);
    for group in 0..8 {
        out.0[group] = d * f32::from(scales[group]);
        out.1[group] = -(dmin * f32::from(mins[group]));
    }
    out
}

impl Decoder for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (scales, mins) = scales_and_mins(s, bytes);
        for group in 0..8 {
            let (scale, min) = (s.splat(scales[group]), s.splat(mins[group]));
            for lane in (0..32).step_by(S::LANES) {
                let q = s.u8s(&bytes[16 + group / 2 * 32 + lane..]);
                let q = if group % 2 == 0 {
                    s.and(q, s.splat_i32(15))
                } else {
                    s.shr(q, 4)
                };
                sink(32 * group + lane, s.fma(scale, s.to_f32(q), min));
            }
        }
    }
}

impl Decoder for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (scales, mins) = scales_and_mins(s, bytes);
        for group in 0..8 {
            let (scale, min) = (s.splat(scales[group]), s.splat(mins[group]));
            for lane in (0..32).step_by(S::LANES) {
                let q = s.u8s(&bytes[48 + group / 2 * 32 + lane..]);
                let low = if group % 2 == 0 {
                    s.and(q, s.splat_i32(15))
                } else {
                    s.shr(q, 4)
                };
                let high = s.and(s.shr(s.u8s(&bytes[16 + lane..]), group as u32), s.splat_i32(1));
                let q = s.or(low, s.shl(high, 4));
                sink(32 * group + lane, s.fma(scale, s.to_f32(q), min));
            }
        }
    }
}

impl Decoder for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let d = s.half(&bytes[208..]);
        for part in 0..8 {
            let (half, quarter) = (part / 4, part % 4);
            for lane in (0..32).step_by(S::LANES) {
                let at = 32 * part + lane;
                let scale = s.splat(d * f32::from(bytes[192 + at / 16] as i8));
                let q = s.u8s(&bytes[64 * half + quarter % 2 * 32 + lane..]);
                let low = if quarter < 2 {
                    s.and(q, s.splat_i32(15))
                } else {
                    s.shr(q, 4)
                };
                let high = s.u8s(&bytes[128 + 32 * half + lane..]);
                let high = s.and(s.shr(high, 2 * quarter as u32), s.splat_i32(3));
                let q = s.add_i32(s.or(low, s.shl(high, 4)), s.splat_i32(-32));
                sink(at, s.mul(scale, s.to_f32(q)));
            }
        }
    }
}

impl Decoder for IQ4XS {
    const LEN: usize = 256;
    const BYTES: usize = 136;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let d = s.half(bytes);
        let highs = u16::from_le_bytes([bytes[2], bytes[3]]);
        for group in 0..8 {
            let low = bytes[4 + group / 2] >> (group % 2 * 4) & 15;
            let high = (highs >> (2 * group) & 3) as u8;
            let scale = s.splat(d * f32::from((low | high << 4) as i8 - 32));
            for lane in (0..32).step_by(S::LANES) {
                let q = s.u8s(&bytes[8 + 16 * group + lane % 16..]);
                let q = if lane < 16 {
                    s.and(q, s.splat_i32(15))
                } else {
                    s.shr(q, 4)
                };
                let value = s.add_i32(s.lookup(&IQ4_VALUES, q), s.splat_i32(-128));
                sink(32 * group + lane, s.mul(scale, s.to_f32(value)));
            }
        }
    }
}
