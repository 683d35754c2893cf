//! Packed weights with the rows of prompts, by bf16 tiles.
//!
//! Invariant: a row's floats are `sum_k bf16(w) * bf16(x)` in f32, 32 columns at a time in order, however many rows and
//! panels are walked at once.
//!
//! Two panels at a time are made bf16, so many columns that they stay in the caches, and all rows are multiplied
//! with them before the next columns.
#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Packed;
use crate::amx::{Amx, Area, Shapes, Target, Tiles, multiply_block};
use crate::input::TILE_ROWS;
use crate::packed::layout::{FOURS, GROUP, LINE, PANEL};
use crate::packed::registers::{Kind, Strip, codes, head, scale_and_min, with_kind};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// Panels that are multiplied at once.
const PAIR: usize = 2;
/// Columns whose weights are in bf16 at once: 64 KB of two panels, in the second cache. Fewer would stay in the first, but
/// then sums are stored and loaded more often, which costs more.
const TURN_COLS: usize = 1024;
/// How far ahead of the codes in use others are asked for.
const AHEAD: usize = 2 << 10;
/// Rows of activations that a piece takes, at most and at least.
const BAND_ROWS_MAX: usize = 512;
const BAND_ROWS_MIN: usize = 64;
/// Activations that stay in the second cache (2 MB on all processors with AMX) beside the weights.
const BAND_BYTES: usize = 1 << 20;
/// Bytes of a tile.
const TILE: usize = 1024;
const STEPS: usize = TURN_COLS / GROUP;

/// Blocks of 16 rows that a piece takes: so many that their activations stay in the cache from piece to piece.
pub(super) fn band_blocks(rows: usize, cols: usize) -> usize {
    let fit = (BAND_BYTES / (2 * cols.max(1))).clamp(BAND_ROWS_MIN, BAND_ROWS_MAX);
    let bands = rows.div_ceil(fit).max(1);
    // Whole blocks of two tiles, about as many in each band.
    rows.div_ceil(bands)
        .next_multiple_of(2 * TILE_ROWS)
        .min(BAND_ROWS_MAX)
        / TILE_ROWS
}

/// The products of some panels with some blocks of 16 rows of prompts.
pub(super) struct Rows<'a> {
    pub part: &'a Packed<'a>,
    pub panels: Range<usize>,
    pub blocks: Range<usize>,
}

impl Rows<'_> {
    pub(super) fn run(self, amx: Amx) {
        if self.blocks.is_empty() || self.panels.is_empty() {
            return;
        }
        // SAFETY: the token proves the instructions.
        with_kind!(self.part.w.format, K => unsafe { rows::<K>(amx, &self) });
    }
}

/// Weights and sums of a turn. Its parts are written before they are read.
#[repr(C, align(64))]
struct Scratch {
    b: [MaybeUninit<u8>; PAIR * STEPS * TILE],
    c: [MaybeUninit<u8>; PAIR * BAND_ROWS_MAX / TILE_ROWS * TILE],
}

/// # Safety
/// The processor has what the token proves.
#[inline(never)]
#[target_feature(
    enable = "avx512vnni,avx512vbmi,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
)]
unsafe fn rows<K: Kind>(amx: Amx, job: &Rows<'_>) {
    let w = job.part.w;
    let mut scratch = MaybeUninit::<Scratch>::uninit();
    let (b, c) = {
        let scratch = scratch.as_mut_ptr();
        // SAFETY: only addresses inside `scratch` are taken.
        unsafe {
            (
                (&raw mut (*scratch).b).cast::<u8>(),
                (&raw mut (*scratch).c).cast::<u8>(),
            )
        }
    };
    let tiles = Tiles::new(amx, &Shapes::FULL);
    assert!(job.blocks.len() <= BAND_ROWS_MAX / TILE_ROWS);
    for first in job.panels.clone().step_by(PAIR) {
        let panels = PAIR.min(job.panels.end - first);
        for from in (0..w.cols).step_by(TURN_COLS) {
            let cols = from..w.cols.min(from + TURN_COLS);
            for p in 0..panels {
                // SAFETY: the scratch has room for two panels of `TURN_COLS` columns.
                unsafe {
                    expand::<K>(
                        amx.vnni(),
                        w.panel(first + p),
                        w.cols,
                        cols.clone(),
                        b.add(p * STEPS * TILE),
                    )
                };
            }
            // SAFETY: the scratch was just filled.
            unsafe { multiply_band(&tiles, job, first, panels, cols, b, c) };
        }
        for (index, block) in job.blocks.clone().enumerate() {
            // SAFETY: the sums of this block were just stored.
            unsafe { store_block(job, block, first, panels, c.add(index * PAIR * TILE).cast()) };
        }
    }
}

/// Multiplies all rows of the band with a turn's weights; the sums go to `c`, `[16 rows][2 panels][16]` for each block.
///
/// # Safety
/// `b` holds the tiles of these columns for so many panels, `c` has room for the band.
#[inline(always)]
unsafe fn multiply_band(
    tiles: &Tiles,
    job: &Rows<'_>,
    first: usize,
    panels: usize,
    cols: Range<usize>,
    b: *const u8,
    c: *mut u8,
) {
    let last = cols.end == job.part.w.cols;
    let groups = job.part.w.cols / GROUP;
    let lines = job.part.input.bf16();
    let lines = &lines[job.blocks.start * groups * TILE_ROWS..job.blocks.end * groups * TILE_ROWS];
    let (steps, add) = (cols.len() / GROUP, cols.start > 0);
    let area = |at: *const u8, beside: usize| Area {
        at,
        stride: LINE,
        step: TILE,
        beside,
    };
    let (b, blocks) = (area(b, STEPS * TILE), job.blocks.len());
    for block in (0..blocks).step_by(2) {
        let at = lines
            .as_ptr()
            .cast::<u8>()
            .wrapping_add((block * groups + cols.start / GROUP) * TILE);
        let a = area(at, groups * TILE);
        if last {
            prefetch_outputs(job, job.blocks.start + block, first);
        }
        let c = Target {
            at: c.wrapping_add(block * PAIR * TILE),
            stride: PAIR * LINE,
            below: PAIR * TILE,
            beside: LINE,
        };
        // SAFETY: `lines` has the tiles of both blocks, or of the one that is left; `b` and `c`, the caller says.
        unsafe {
            match (blocks - block > 1, panels > 1) {
                (true, true) => multiply_block::<2, 2>(tiles, a, b, c, steps, add),
                (true, false) => multiply_block::<2, 1>(tiles, a, b, c, steps, add),
                (false, true) => multiply_block::<1, 2>(tiles, a, b, c, steps, add),
                (false, false) => multiply_block::<1, 1>(tiles, a, b, c, steps, add),
            }
        }
    }
}

/// Asks for the lines that two blocks of outputs will go to. Each row's are on a page of their own, far from the others:
/// fetched one after the other they would cost as much time as the products.
#[inline(always)]
fn prefetch_outputs(job: &Rows<'_>, block: usize, first: usize) {
    let part = job.part;
    let at = part.input.int8_rows + block * TILE_ROWS;
    for row in at..(at + 2 * TILE_ROWS).min(part.input.rows.total()) {
        let y = part.y.address(row * part.w.rows + first * PANEL).cast::<i8>();
        // SAFETY: prefetching is allowed at any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_ET0>(y);
            _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add(LINE));
            _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add(2 * LINE - 1));
        }
    }
}

/// Puts the sums of a block of rows in their place.
///
/// # Safety
/// `c` has the tiles of so many panels.
#[inline(always)]
unsafe fn store_block(job: &Rows<'_>, block: usize, first: usize, panels: usize, c: *const f32) {
    let part = job.part;
    let prefill = part.input.rows.total() - part.input.int8_rows;
    let at = first * PANEL;
    let len = (panels * PANEL).min(part.w.rows - at);
    for row in 0..TILE_ROWS.min(prefill - block * TILE_ROWS) {
        // SAFETY: a row of the tiles of both panels, or of the one that there is, which were stored whole.
        let values = unsafe { std::slice::from_raw_parts(c.add(row * PAIR * PANEL), len) };
        part.store(part.input.int8_rows + block * TILE_ROWS + row, at, values);
    }
}

/// Weights of a panel in bf16: a tile of `[16 pairs of columns][16 rows][2]` for each 32 columns of `cols`.
///
/// # Safety
/// `panel` is a whole panel of `all_cols` columns, `cols` are whole blocks of it, and `out` has room for their tiles.
#[inline(always)]
unsafe fn expand<K: Kind>(t: Vnni, panel: &[u8], all_cols: usize, cols: Range<usize>, out: *mut u8) {
    let layout = K::LAYOUT;
    let strip = Strip::new::<Vnni>(layout, panel, all_cols, 0);
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
