//! bf16 tiles of weights that lie in their file, in F16.
//!
//! Invariant: a value is that of the file, rounded once to bf16, which has 8 bits of precision where f16 has 11. No byte
//! outside the matrix is read.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Source, TILE};
use crate::matmul::MatrixRef;
use crate::packed::layout::{GROUP, LINE, PANEL};
use crate::quant::Format;
use crate::simd::{Simd, Vnni};

/// How far ahead of the columns in use others are asked for.
const AHEAD: usize = 512;

/// A matrix in F16.
pub(super) struct Panels<'a> {
    w: MatrixRef<'a>,
}

impl<'a> Panels<'a> {
    pub(super) fn new(w: MatrixRef<'a>) -> Panels<'a> {
        assert!(
            w.format == Format::F16,
            "of the plain formats, F16 alone has tiles"
        );
        Panels { w }
    }
}

/// 32 values as bf16, zero where the mask is.
///
/// # Safety
/// The processor has AVX-512 BW, VL and BF16; the values that the mask wants are readable. Any alignment.
#[inline(always)]
unsafe fn load(from: *const u16, mask: u32) -> __m512i {
    // SAFETY: the caller's promise; the second half may begin outside, but then nothing of it is wanted.
    unsafe {
        let low = _mm256_maskz_loadu_epi16(mask as u16, from.cast());
        let high = _mm256_maskz_loadu_epi16((mask >> 16) as u16, from.wrapping_add(GROUP / 2).cast());
        std::mem::transmute(_mm512_cvtne2ps_pbh(_mm512_cvtph_ps(high), _mm512_cvtph_ps(low)))
    }
}

/// 32 columns of 16 rows.
#[repr(C, align(64))]
struct Rows([[u16; GROUP]; PANEL]);

impl Source for Panels<'_> {
    #[inline(always)]
    unsafe fn expand(&self, t: Vnni, panel: usize, cols: Range<usize>, out: *mut u8) {
        let (w, first) = (&self.w, panel * PANEL);
        debug_assert!(first < w.rows && cols.end <= w.cols);
        let count = PANEL.min(w.rows - first);
        let bytes = &w.bytes[2 * first * w.cols..2 * (first + count) * w.cols];
        let mut rows = Rows([[0; GROUP]; PANEL]);
        for (tile, at) in cols.clone().step_by(GROUP).enumerate() {
            let mask = u32::MAX >> (GROUP - GROUP.min(cols.end - at));
            for (row, to) in rows.0.iter_mut().enumerate().take(count) {
                let from = bytes.as_ptr().wrapping_add(2 * (row * w.cols + at));
                t.avx512().prefetch(from.wrapping_add(AHEAD));
                // SAFETY: the mask wants columns of this row.
                unsafe { _mm512_store_si512(to.as_mut_ptr().cast(), load(from.cast(), mask)) };
            }
            // SAFETY: there is room for as many tiles.
            unsafe { transpose(&rows, out.add(tile * TILE)) };
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
