//! Blocks of 32 values with one scale: GGML's first formats, and the two whose 4-bit values stand for entries of a table.
//!
//! Invariant: bytes hold values `i` in their low and `16 + i` in their high nibbles.

use super::{Decoder, IQ4_VALUES};
use crate::simd::Simd;

pub(crate) struct Q8_0;
pub(crate) struct Q4_0;
pub(crate) struct Q4_1;
pub(crate) struct Q5_0;
pub(crate) struct Q5_1;
pub(crate) struct IQ4NL;
pub(crate) struct MXFP4;

/// The numbers of 4-bit floats (one bit of mantissa, two of exponent) times two, plus 128.
pub(crate) const MXFP4_VALUES: [u8; 16] = [
    128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116,
];

impl Decoder for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let d = s.splat_half(bytes);
        for at in (0..32).step_by(S::LANES) {
            sink(at, s.mul(d, s.to_f32(s.i8s(&bytes[2 + at..]))));
        }
    }
}

/// Gives the 4-bit values of 16 bytes to `sink`, with the index of their first, in order.
#[inline(always)]
fn nibbles<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::I32)) {
    let bytes = &bytes[..16];
    for at in (0..16).step_by(S::LANES) {
        sink(at, s.and(s.u8s(&bytes[at..]), s.splat_i32(15)));
    }
    for at in (0..16).step_by(S::LANES) {
        sink(16 + at, s.shr(s.u8s(&bytes[at..]), 4));
    }
}

/// 32 bits, each times 16, in a byte of its own.
#[inline(always)]
fn fifth_bits(bits: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (out, &bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        // Every byte gets all eight bits and keeps its own, which the addition then moves to the top.
        let own = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let top = (own + 0x007f_7f7f_7f7f_7f7f) | own;
        *out = ((top >> 3) & 0x1010_1010_1010_1010).to_le_bytes();
    }
    out
}

impl Decoder for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, minus_8) = (s.splat_half(bytes), s.splat_i32(-8));
        nibbles(
            s,
            &bytes[2..],
            #[inline(always)]
            |at, q| sink(at, s.mul(d, s.to_f32(s.add_i32(q, minus_8)))),
        );
    }
}

impl Decoder for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, min) = (s.splat_half(bytes), s.splat_half(&bytes[2..]));
        nibbles(
            s,
            &bytes[4..],
            #[inline(always)]
            |at, q| sink(at, s.fma(d, s.to_f32(q), min)),
        );
    }
}

impl Decoder for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, minus_16) = (s.splat_half(bytes), s.splat_i32(-16));
        let high = fifth_bits(&bytes[2..6]);
        nibbles(
            s,
            &bytes[6..],
            #[inline(always)]
            |at, low| {
                let q = s.add_i32(s.or(low, s.u8s(&high[at..])), minus_16);
                sink(at, s.mul(d, s.to_f32(q)));
            },
        );
    }
}

impl Decoder for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, min) = (s.splat_half(bytes), s.splat_half(&bytes[2..]));
        let high = fifth_bits(&bytes[4..8]);
        nibbles(
            s,
            &bytes[8..],
            #[inline(always)]
            |at, low| sink(at, s.fma(d, s.to_f32(s.or(low, s.u8s(&high[at..]))), min)),
        );
    }
}

impl Decoder for IQ4NL {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, minus_128) = (s.splat_half(bytes), s.splat_i32(-128));
        nibbles(
            s,
            &bytes[2..],
            #[inline(always)]
            |at, q| {
                let value = s.add_i32(s.lookup(&IQ4_VALUES, q), minus_128);
                sink(at, s.mul(d, s.to_f32(value)));
            },
        );
    }
}

/// Half of two to the power of `e - 127`: half, since the table has twice the values.
#[inline(always)]
pub(crate) fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 {
        0x0020_0000 << e
    } else {
        (u32::from(e) - 1) << 23
    })
}

impl Decoder for MXFP4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let (d, minus_128) = (s.splat(half_power(bytes[0])), s.splat_i32(-128));
        nibbles(
            s,
            &bytes[1..],
            #[inline(always)]
            |at, q| {
                let value = s.add_i32(s.lookup(&MXFP4_VALUES, q), minus_128);
                sink(at, s.mul(d, s.to_f32(value)));
            },
        );
    }
}
