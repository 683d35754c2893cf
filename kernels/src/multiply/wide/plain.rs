//! bf16 tiles of weights that lie in their file, in F16 or BF16.
//!
//! Invariant: the parts of a finite value add up to that of the file, exactly: bf16 has 8 bits of precision, f16 has 11, and all
//! its values are normal numbers in bf16. No byte outside the matrix is read.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Panels, Source, TILE};
use crate::matmul::MatrixRef;
use crate::packed::layout::{GROUP, LINE, PANEL};
use crate::simd::{Simd, Vnni};

/// How far ahead of the columns in use others are asked for.
const AHEAD: usize = 512;

/// A format of 2 bytes.
pub(super) trait Half {
    /// Parts of a value in bf16.
    const PARTS: usize;

    /// 32 values in bf16, zero where the mask is: the high parts and the low ones, if it has any.
    ///
    /// # Safety
    /// The processor has AVX-512 BW, VL and BF16; the values that the mask wants are readable. Any alignment.
    unsafe fn load(from: *const u16, mask: u32) -> [__m512i; 2];
}

pub(super) struct F16;
pub(super) struct BF16;

impl Half for F16 {
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u16, mask: u32) -> [__m512i; 2] {
        // SAFETY: the caller's promise; the second half may begin outside, but then nothing of it is wanted.
        unsafe {
            let (first, second) = (mask as u16, (mask >> 16) as u16);
            let first = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first, from.cast()));
            let behind = from.wrapping_add(GROUP / 2).cast();
            let second = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(second, behind));
            // Rounded to 8 bits, half away from zero: whole numbers do that, and give floats to subtract. A NaN may become
            // a number, but then its rest is none.
            let high = |v: __m512| {
                let up = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
                _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
            };
            let (high_1, high_2) = (high(first), high(second));
            let (low_1, low_2) = (_mm512_sub_ps(first, high_1), _mm512_sub_ps(second, high_2));
            let high: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high_2, high_1));
            let low: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(low_2, low_1));
            [high, low]
        }
    }
}

impl Half for BF16 {
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const u16, mask: u32) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm512_maskz_loadu_epi16(mask, from.cast()),
                _mm512_setzero_si512(),
            ]
        }
    }
}

/// 32 columns of 16 rows.
#[repr(C, align(64))]
struct Rows([[u16; GROUP]; PANEL]);

impl<H: Half> Source for Panels<MatrixRef<'_>, H> {
    const PARTS: usize = H::PARTS;
    const INPUT_PARTS: usize = 2;

    #[inline(always)]
    unsafe fn expand(&self, t: Vnni, panel: usize, cols: Range<usize>, out: *mut u8) {
        let (w, first) = (&self.w, panel * PANEL);
        debug_assert!(first < w.rows && cols.end <= w.cols);
        let count = PANEL.min(w.rows - first);
        let bytes = &w.bytes[2 * first * w.cols..2 * (first + count) * w.cols];
        let mut parts = [const { Rows([[0; GROUP]; PANEL]) }; 2];
        for (tile, at) in cols.clone().step_by(GROUP).enumerate() {
            let mask = u32::MAX >> (GROUP - GROUP.min(cols.end - at));
            for row in 0..count {
                let from = bytes.as_ptr().wrapping_add(2 * (row * w.cols + at));
                t.avx512().prefetch(from.wrapping_add(AHEAD));
                // SAFETY: the mask wants columns of this row.
                let values = unsafe { H::load(from.cast(), mask) };
                for (part, v) in parts.iter_mut().zip(values).take(H::PARTS) {
                    // SAFETY: a row is a vector, and on its boundary.
                    unsafe { _mm512_store_si512(part.0[row].as_mut_ptr().cast(), v) };
                }
            }
            for (at, part) in parts.iter().enumerate().take(H::PARTS) {
                // SAFETY: there is room for as many tiles.
                unsafe { transpose(part, out.add((tile * H::PARTS + at) * TILE)) };
            }
        }
    }
}

/// Rows of pairs become pairs of rows: `[16 rows][16 pairs][2]` to `[16 pairs][16 rows][2]`.
///
/// # Safety
/// The processor has AVX-512; `out` has room for a tile, on a boundary of 64 bytes.
#[inline(always)]
unsafe fn transpose(rows: &Rows, out: *mut u8) {
    for four in 0..4 {
        // Four pairs of the rows `row`, `row + 4`, `row + 8` and `row + 12`, a row in each quarter of the vector.
        let quarters = |row: usize| {
            let from = |row: usize| rows.0[row].as_ptr().wrapping_add(8 * four).cast();
            // SAFETY: 16 bytes of a row; the processor, the caller says. Loads that leave the other quarters as they are
            // need no shuffle, of which the transposition has enough.
            unsafe {
                let v = _mm512_castsi128_si512(_mm_load_si128(from(row)));
                let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_load_si128(from(row + 4)));
                let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_load_si128(from(row + 8)));
                _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_load_si128(from(row + 12)))
            }
        };
        // In each quarter: 4 rows of 4 pairs become 4 pairs of 4 rows.
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d] = [quarters(0), quarters(1), quarters(2), quarters(3)];
            let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let pairs = [
                _mm512_unpacklo_epi64(low_ab, low_cd),
                _mm512_unpackhi_epi64(low_ab, low_cd),
                _mm512_unpacklo_epi64(high_ab, high_cd),
                _mm512_unpackhi_epi64(high_ab, high_cd),
            ];
            for (pair, line) in pairs.into_iter().enumerate() {
                _mm512_store_si512(out.add((4 * four + pair) * LINE).cast(), line);
            }
        }
    }
}
