//! bf16 tiles of packed weights.
//!
//! Invariant: a value is that of `unpack_row`, rounded once to bf16.
#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Panels, Source, TILE};
use crate::packed::PackedRef;
use crate::packed::layout::{FOURS, GROUP, LINE};
use crate::packed::registers::{Kind, Strip, codes, head, scale_and_min};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// How far ahead of the codes in use others are asked for.
const AHEAD: usize = 2 << 10;

impl<K: Kind> Source for Panels<PackedRef<'_>, K> {
    const PARTS: usize = 1;
    const INPUT_PARTS: usize = 1;

    #[inline(always)]
    unsafe fn expand(&self, t: Vnni, panel: usize, cols: Range<usize>, out: *mut u8) {
        let layout = K::LAYOUT;
        let strip = Strip::new::<Vnni>(layout, self.w.panel(panel), self.w.cols, 0);
        let per_block = layout.block_cols() / GROUP;
        let mut out = out;
        for block in cols.start / layout.block_cols()..cols.end / layout.block_cols() {
            // SAFETY: the panel has these blocks and groups; each group has one tile.
            unsafe {
                let scales = strip.scales.add(block * layout.block_scales());
                let head = head::<Vnni, K>(t, scales, 0);
                for group in 0..per_block {
                    let at = strip
                        .codes
                        .add((block * per_block + group) * layout.group_codes());
                    for line in 0..layout.planes.lines() {
                        t.prefetch(at.wrapping_add(AHEAD + line * LINE));
                    }
                    let codes = codes::<Vnni, K>(t, at);
                    if layout.group == GROUP {
                        let line = Line::new::<K>(scale_and_min::<Vnni, K>(t, scales, 0, group, head));
                        for i in 0..FOURS {
                            line.store(codes[i], out.add(2 * i * LINE));
                        }
                    } else {
                        for half in 0..2 {
                            let scale = scale_and_min::<Vnni, K>(t, scales, 0, 2 * group + half, head);
                            let line = Line::new::<K>(scale);
                            for i in 4 * half..4 * half + 4 {
                                line.store(codes[i], out.add(2 * i * LINE));
                            }
                        }
                    }
                    out = out.add(TILE);
                }
            }
        }
    }
}

/// Scales and minimums of the rows of a panel, each twice: rows 0 to 7 and rows 8 to 15.
struct Line {
    scales: [__m512; 2],
    mins: [__m512; 2],
}

impl Line {
    /// # Safety
    /// The processor has AVX-512 F.
    #[inline(always)]
    unsafe fn new<K: Kind>((scale, min): (__m512, __m512)) -> Line {
        // SAFETY: the caller's promise.
        unsafe {
            // `scale * (code - offset)` is `fma(scale, code, -scale * offset)`: the offset is a power of two, so that
            // product is exact and the result is rounded once either way.
            let min = if K::LAYOUT.mins {
                min
            } else {
                _mm512_mul_ps(scale, _mm512_set1_ps(-(K::LAYOUT.offset as f32)))
            };
            let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            Line {
                scales: [
                    _mm512_permutexvar_ps(low, scale),
                    _mm512_permutexvar_ps(high, scale),
                ],
                mins: [_mm512_permutexvar_ps(low, min), _mm512_permutexvar_ps(high, min)],
            }
        }
    }

    /// Four columns of codes become two lines of pairs.
    ///
    /// # Safety
    /// The processor has AVX-512 VBMI and BF16; `out` has room for two lines, on a boundary of 64 bytes.
    #[inline(always)]
    unsafe fn store(&self, codes: __m512i, out: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            // Byte 4j of the index: code j % 2 of row j / 2; the mask makes the bytes between zero.
            let first = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29);
            for pair in 0..2 {
                let mut rows = [_mm512_setzero_ps(); 2];
                for half in 0..2 {
                    let index = _mm512_add_epi32(first, _mm512_set1_epi32((32 * half + 2 * pair) as i32));
                    let code = _mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, index, codes);
                    rows[half] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), self.scales[half], self.mins[half]);
                }
                let line: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(rows[1], rows[0]));
                _mm512_store_si512(out.add(pair * LINE).cast(), line);
            }
        }
    }
}
