//! Decoders of each format into vectors of floats, written once for all instruction sets.
//!
//! Invariant: every value is the same float as in `reference`: products of scale and value are exact in f32, so
//! whether an instruction set fuses the multiplication makes no difference.

mod legacy;
mod plain;
mod super_blocks;

use crate::simd::Simd;
pub(crate) use legacy::{IQ4NL, MXFP4, MXFP4_VALUES, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, half_power};
pub(crate) use plain::{BF16, F16, F32};
pub(crate) use super_blocks::{IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K};

/// Decodes steps of `LEN` values, which take `BYTES` bytes.
pub(crate) trait Decoder: Send + Sync {
    const LEN: usize;
    const BYTES: usize;

    /// Gives the vectors of one step to `sink`, with the index of their first value, in order. `bytes` holds `BYTES`.
    fn step<S: Simd>(s: S, bytes: &[u8], sink: impl FnMut(usize, S::F32));
}

/// Plain formats have blocks of one value; they are decoded by steps of 32.
const PLAIN: usize = 32;

/// What the 4-bit values of IQ4_NL and IQ4_XS stand for, plus 128.
pub(crate) const IQ4_VALUES: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

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
