//! What the cache stores: f32, or f16 as its bits.
//!
//! Invariant: everything outside this file sees f32.

use crate::simd::Simd;

/// A stored value.
pub(super) trait Value: Copy + Default + Send + Sync {
    /// # Safety
    /// `from` is readable for `LANES` values.
    unsafe fn load_at<S: Simd>(s: S, from: *const Self) -> S::F32;
    /// Into the first `LANES` of `to`.
    fn store<S: Simd>(s: S, to: &mut [Self], v: S::F32);

    /// All of `from` (fewer than 32), then zeros.
    #[inline(always)]
    fn load_some<S: Simd>(s: S, from: &[Self]) -> S::F32 {
        let mut padded = [Self::default(); 32];
        padded[..from.len()].copy_from_slice(from);
        // SAFETY: 32 is at least `LANES`.
        unsafe { Self::load_at(s, padded.as_ptr()) }
    }

    /// Stores a whole row.
    #[inline(always)]
    fn store_row<S: Simd>(s: S, to: &mut [Self], from: &[f32]) {
        assert_eq!(to.len(), from.len());
        let (mut tos, mut froms) = (to.chunks_exact_mut(S::LANES), from.chunks_exact(S::LANES));
        for (to, from) in (&mut tos).zip(&mut froms) {
            Self::store(s, to, s.load(from));
        }
        let (to, from) = (tos.into_remainder(), froms.remainder());
        let mut padded = [Self::default(); 32];
        Self::store(s, &mut padded, s.load_some(from));
        to.copy_from_slice(&padded[..to.len()]);
    }
}

impl Value for f32 {
    #[inline(always)]
    unsafe fn load_at<S: Simd>(s: S, from: *const f32) -> S::F32 {
        // SAFETY: the caller's promise is the same.
        unsafe { s.load_at(from) }
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [f32], v: S::F32) {
        s.store(to, v);
    }
}

impl Value for u16 {
    #[inline(always)]
    unsafe fn load_at<S: Simd>(s: S, from: *const u16) -> S::F32 {
        // SAFETY: the caller's promise is the same.
        unsafe { s.halves_at(from) }
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [u16], v: S::F32) {
        s.store_half(to, v);
    }
}
