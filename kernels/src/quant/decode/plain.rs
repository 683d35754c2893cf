//! Formats without blocks, decoded by steps of 32 values.
//!
//! Invariant: a value depends on its own bytes alone, so a row may end within a step.

use super::{Decoder, PLAIN};
use crate::simd::Simd;

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct BF16;

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
