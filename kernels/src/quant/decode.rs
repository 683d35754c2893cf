//! Decoders of each format into vectors of floats, written once for all instruction sets.
//!
//! Invariant: every value is the same float as in `reference`: products of scale and value are exact in f32, so
//! whether an instruction set fuses the multiplication makes no difference.

use crate::simd::Simd;

/// Decodes steps of `LEN` values, which take `BYTES` bytes.
pub(crate) trait Decoder: Send + Sync {
    const LEN: usize;
    const BYTES: usize;

    /// Gives the vectors of one step to `sink`, with the index of their first value, in order. `bytes` holds `BYTES`.
    fn step<S: Simd>(s: S, bytes: &[u8], sink: impl FnMut(usize, S::F32));
}

/// Plain formats have blocks of one value; they are decoded by steps of 32.
const PLAIN: usize = 32;

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct BF16;
pub(crate) struct Q8_0;
pub(crate) struct Q4_0;
pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;

impl Decoder for F32 {
    const LEN: usize = PLAIN;
    const BYTES: usize = 4 * PLAIN;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        for at in (0..PLAIN).step_by(S::LANES) {
            sink(at, s.f32s(&bytes[4 * at..]));
        }
    }
}

impl Decoder for F16 {
    const LEN: usize = PLAIN;
    const BYTES: usize = 2 * PLAIN;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        for at in (0..PLAIN).step_by(S::LANES) {
            sink(at, s.f16s(&bytes[2 * at..]));
        }
    }
}

impl Decoder for BF16 {
    const LEN: usize = PLAIN;
    const BYTES: usize = 2 * PLAIN;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        for at in (0..PLAIN).step_by(S::LANES) {
            sink(at, s.bf16s(&bytes[2 * at..]));
        }
    }
}

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

impl Decoder for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn step<S: Simd>(s: S, bytes: &[u8], mut sink: impl FnMut(usize, S::F32)) {
        let bytes = &bytes[..Self::BYTES];
        let d = s.splat_half(bytes);
        let minus_8 = s.splat_i32(-8);
        for at in (0..16).step_by(S::LANES) {
            let q = s.and(s.u8s(&bytes[2 + at..]), s.splat_i32(15));
            sink(at, s.mul(d, s.to_f32(s.add_i32(q, minus_8))));
        }
        for at in (0..16).step_by(S::LANES) {
            let q = s.shr(s.u8s(&bytes[2 + at..]), 4);
            sink(16 + at, s.mul(d, s.to_f32(s.add_i32(q, minus_8))));
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

/// Decodes `out.len()` values. A row of a plain format may end within a step; the rest of its step is not stored.
#[inline(always)]
pub(crate) fn decode_into<S: Simd, D: Decoder>(s: S, bytes: &[u8], out: &mut [f32]) {
    let steps = out.len() / D::LEN;
    let (whole, rest) = out.split_at_mut(steps * D::LEN);
    for (bytes, out) in bytes.chunks_exact(D::BYTES).zip(whole.chunks_exact_mut(D::LEN)) {
        D::step(
            s,
            bytes,
            #[inline(always)]
            |at, v| s.store(&mut out[at..], v),
        );
    }
    if !rest.is_empty() {
        let len = rest.len();
        let padded = padded::<D>(&bytes[steps * D::BYTES..][..len * D::BYTES / D::LEN]);
        D::step(
            s,
            &padded,
            #[inline(always)]
            |at, v| {
                if at < len {
                    let end = len.min(at + S::LANES);
                    s.store_some(&mut rest[at..end], v);
                }
            },
        );
    }
}

/// The last bytes of a row of a plain format, filled up with zeros (which decode to zero) to a whole step.
#[inline(always)]
pub(crate) fn padded<D: Decoder>(bytes: &[u8]) -> [u8; 4 * PLAIN] {
    debug_assert!(D::LEN == PLAIN && bytes.len() < D::BYTES);
    let mut padded = [0; 4 * PLAIN];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}
