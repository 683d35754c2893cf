//! What the cache stores: f32, f16 as its bits, or bytes with a scale for each 32 of a row.
//!
//! Invariant: everything outside this file sees f32.

use super::cache::Q8_GROUP;
use super::pages::Zero;
use crate::simd::Simd;

/// Some rows of keys or values of one head.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    pub(super) values: &'a [T],
    pub(super) scales: &'a [f32],
    pub(super) dim: usize,
}

impl<T: Value> Rows<'_, T> {
    /// `LANES` values of a row from `d` on.
    ///
    /// # Safety
    /// There is such a row, and `d + LANES <= dim`; `d` is a multiple of `LANES`.
    #[inline(always)]
    pub(super) unsafe fn load_at<S: Simd>(self, s: S, row: usize, d: usize) -> S::F32 {
        debug_assert!(d + S::LANES <= self.dim && (row + 1) * self.dim <= self.values.len());
        let scale = row * T::scales(self.dim) + d / Q8_GROUP;
        // SAFETY: the row and its values exist; each row has `T::scales(dim)` scales, one for each group begun.
        unsafe {
            T::load_at(
                s,
                self.values.as_ptr().add(row * self.dim + d),
                self.scales.as_ptr().wrapping_add(scale),
            )
        }
    }

    /// What makes `load` of the first rows safe.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn check(self, count: usize) {
        let (values, scales) = (count * self.dim, count * T::scales(self.dim));
        assert!(values <= self.values.len() && scales <= self.scales.len());
    }

    /// `LANES` values of a row from `d` on, zeros beyond its end; `d` is a multiple of `LANES`.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd>(self, s: S, row: usize, d: usize) -> S::F32 {
        if d + S::LANES <= self.dim {
            // SAFETY: the caller's promise; the length of a row was checked.
            unsafe { self.load_at(s, row, d) }
        } else if d < self.dim {
            self.load_rest(s, row, d)
        } else {
            s.splat(0.0)
        }
    }

    /// The last values of a row, from `d` on (fewer than 32), then zeros.
    #[inline(always)]
    pub(super) fn load_rest<S: Simd>(self, s: S, row: usize, d: usize) -> S::F32 {
        let mut values = [T::default(); 32];
        let rest = &self.values[row * self.dim + d..(row + 1) * self.dim];
        values[..rest.len()].copy_from_slice(rest);
        let scales = T::scales(self.dim);
        let scale = self.scales[row * scales..(row + 1) * scales].get(d / Q8_GROUP);
        // SAFETY: 32 is at least `LANES`, and a scale is there where the type has them.
        unsafe { T::load_at(s, values.as_ptr(), scale.unwrap_or(&0.0)) }
    }

    /// The first row as it is.
    pub(super) fn read(self, to: &mut [f32]) {
        assert_eq!(to.len(), self.dim);
        for (d, (to, value)) in to.iter_mut().zip(self.values).enumerate() {
            *to = value.widen(self.scales.get(d / Q8_GROUP).copied().unwrap_or(1.0));
        }
    }
}

/// A stored value.
pub(super) trait Value: Copy + Default + Send + Sync + Zero {
    /// Whether prompts may take tiles of bf16: an f32 cache is there for exact results.
    const WIDE: bool;
    /// Scales of a row of `dim` values.
    fn scales(dim: usize) -> usize;
    /// One value; `scale` is that of its group.
    fn widen(self, scale: f32) -> f32;
    /// # Safety
    /// `from` is readable for `LANES` values, and `scale` for one, where the type has scales.
    unsafe fn load_at<S: Simd>(s: S, from: *const Self, scale: *const f32) -> S::F32;
    /// Stores a whole row with its scales.
    fn store_row<S: Simd>(s: S, to: &mut [Self], scales: &mut [f32], from: &[f32]);
}

impl Value for f32 {
    const WIDE: bool = false;
    fn scales(_: usize) -> usize {
        0
    }
    fn widen(self, _: f32) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load_at<S: Simd>(s: S, from: *const f32, _: *const f32) -> S::F32 {
        // SAFETY: the caller's promise is the same.
        unsafe { s.load_at(from) }
    }
    #[inline(always)]
    fn store_row<S: Simd>(_: S, to: &mut [f32], _: &mut [f32], from: &[f32]) {
        to.copy_from_slice(from);
    }
}

impl Value for u16 {
    const WIDE: bool = true;
    fn scales(_: usize) -> usize {
        0
    }
    fn widen(self, _: f32) -> f32 {
        half::f16::from_bits(self).to_f32()
    }
    #[inline(always)]
    unsafe fn load_at<S: Simd>(s: S, from: *const u16, _: *const f32) -> S::F32 {
        // SAFETY: the caller's promise is the same.
        unsafe { s.halves_at(from) }
    }
    #[inline(always)]
    fn store_row<S: Simd>(s: S, to: &mut [u16], _: &mut [f32], from: &[f32]) {
        assert_eq!(to.len(), from.len());
        let (mut tos, mut froms) = (to.chunks_exact_mut(S::LANES), from.chunks_exact(S::LANES));
        for (to, from) in (&mut tos).zip(&mut froms) {
            s.store_half(to, s.load(from));
        }
        let (to, from) = (tos.into_remainder(), froms.remainder());
        let mut padded = [0; 32];
        s.store_half(&mut padded, s.load_some(from));
        to.copy_from_slice(&padded[..to.len()]);
    }
}

impl Value for i8 {
    const WIDE: bool = true;
    fn scales(dim: usize) -> usize {
        dim.div_ceil(Q8_GROUP)
    }
    fn widen(self, scale: f32) -> f32 {
        f32::from(self) * scale
    }
    #[inline(always)]
    unsafe fn load_at<S: Simd>(s: S, from: *const i8, scale: *const f32) -> S::F32 {
        // SAFETY: the caller's promise; bytes of any alignment.
        let (bytes, scale) = unsafe { (std::slice::from_raw_parts(from.cast::<u8>(), S::LANES), *scale) };
        s.mul(s.to_f32(s.i8s(bytes)), s.splat(scale))
    }
    #[inline(always)]
    fn store_row<S: Simd>(_: S, to: &mut [i8], scales: &mut [f32], from: &[f32]) {
        assert_eq!(to.len(), from.len());
        let groups = to.chunks_mut(Q8_GROUP).zip(from.chunks(Q8_GROUP));
        for ((to, from), scale) in groups.zip(scales) {
            let mut most = 0.0f32;
            for &value in from {
                most = most.max(value.abs());
            }
            *scale = most / 127.0;
            let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
            for (to, from) in to.iter_mut().zip(from) {
                // Casts saturate, also where the inverse overflows, and take not-a-number to zero.
                *to = (from * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            }
        }
    }
}
