//! Weights with the rows of prompts, by bf16 tiles.
//!
//! Invariant: a row's floats are `sum_k bf16(w) * bf16(x)` in f32, 32 columns at a time in order, however many rows and
//! panels are walked at once.
//!
//! Two panels at a time are made bf16, so many columns that they stay in the first cache, and all rows are multiplied
//! with them before the next columns.
//!
//! Weights that lie in their file have more precision than bf16 or lose nothing in it, and are to get what f32 would give.
//! There activations, and F16 weights, come in two parts: the value rounded to bf16, and the rest, rounded too.

mod packed;
mod plain;

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Outputs, Weight};
use crate::amx::{Amx, Area, Shapes, Target, Tiles, multiply_block};
use crate::input::{Input, TILE_ROWS};
use crate::packed::layout::{GROUP, LINE, PANEL};
use crate::packed::registers::with_kind;
use crate::quant::Format;
use crate::simd::Vnni;

/// Panels that are multiplied at once.
const PAIR: usize = 2;
/// Columns whose weights are in bf16 at once, half as many in two parts: 16 KB of two panels, in the first cache beside the
/// activations that pass by. With fewer, sums are stored and loaded so often that it costs more.
const TURN_COLS: usize = 256;
/// Rows of activations that a piece takes, at most and at least.
const BAND_ROWS_MAX: usize = 512;
const BAND_ROWS_MIN: usize = 64;
/// Activations that stay in the second cache (2 MB on all processors with AMX) beside the weights.
const BAND_BYTES: usize = 1 << 20;
/// Bytes of a tile.
const TILE: usize = 1024;
const STEPS: usize = TURN_COLS / GROUP;

/// Blocks of 16 rows that a piece takes: so many that their activations stay in the cache from piece to piece.
pub(super) fn band_blocks(rows: usize, input: &Input) -> usize {
    let row_bytes = size_of::<u16>() * input.cols.max(1) * input.bf16_parts();
    let fit = (BAND_BYTES / row_bytes).clamp(BAND_ROWS_MIN, BAND_ROWS_MAX);
    let bands = rows.div_ceil(fit).max(1);
    // Whole blocks, about as many in each band.
    rows.div_ceil(bands)
        .next_multiple_of(TILE_ROWS)
        .min(BAND_ROWS_MAX)
        / TILE_ROWS
}

/// What makes the tiles of a matrix.
trait Source {
    /// Parts of a weight, and those of an activation that it is multiplied with.
    const PARTS: usize;
    const INPUT_PARTS: usize;

    /// Weights of a panel in bf16: for each 32 columns of `cols` a tile of `[16 pairs of columns][16 rows][2]` of each part,
    /// the high one first. What the matrix lacks of those is zero, but for the rows beyond its last, which may hold anything.
    ///
    /// # Safety
    /// The processor has what the token of `Amx` proves. The matrix has the panel; `cols` begins with a turn, and ends with
    /// it or with the matrix; `out` has room for their tiles, on a boundary of 64 bytes.
    unsafe fn expand(&self, t: Vnni, panel: usize, cols: Range<usize>, out: *mut u8);
}

/// A matrix `W` of a format that is known when a kernel is compiled.
struct Panels<W, F> {
    w: W,
    format: PhantomData<F>,
}

impl<W, F> Panels<W, F> {
    fn new(w: W) -> Panels<W, F> {
        let format = PhantomData;
        Panels { w, format }
    }
}

/// A product's rows of prompts.
pub(super) struct Prompts<'a> {
    pub w: Weight<'a>,
    pub input: &'a Input,
    pub out: Outputs<'a>,
}

impl Prompts<'_> {
    /// Computes the outputs of some panels for some blocks of 16 rows.
    pub(super) fn run(&self, amx: Amx, panels: Range<usize>, blocks: Range<usize>) {
        if blocks.is_empty() || panels.is_empty() {
            return;
        }
        let (rows, cols) = self.w.shape();
        let job = Job {
            input: self.input,
            out: &self.out,
            rows,
            cols,
            panels,
            blocks,
        };
        // SAFETY: the token proves the instructions.
        unsafe {
            match self.w {
                Weight::Packed(w) => {
                    with_kind!(w.format, K => walk(amx, &job, &Panels::<_, K>::new(w)));
                }
                Weight::Plain(w) if w.format == Format::F16 => {
                    walk(amx, &job, &Panels::<_, plain::F16>::new(w));
                }
                Weight::Plain(w) => walk(amx, &job, &Panels::<_, plain::BF16>::new(w)),
            }
        }
    }
}

/// Some panels with some blocks of 16 rows.
struct Job<'a> {
    input: &'a Input,
    out: &'a Outputs<'a>,
    /// The shape of the weights.
    rows: usize,
    cols: usize,
    panels: Range<usize>,
    blocks: Range<usize>,
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
unsafe fn walk<S: Source>(amx: Amx, job: &Job<'_>, source: &S) {
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
        // Where there are no columns, one turn of none makes the sums zero.
        let turn = TURN_COLS / S::PARTS;
        for from in (0..job.cols.max(1)).step_by(turn) {
            let cols = from..job.cols.min(from + turn);
            for p in 0..panels {
                // SAFETY: the scratch has room for all parts of two panels of `turn` columns.
                unsafe { source.expand(amx.vnni(), first + p, cols.clone(), b.add(p * STEPS * TILE)) };
            }
            // SAFETY: the scratch was just filled.
            unsafe { multiply_band::<S>(&tiles, job, first, panels, cols, b, c) };
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
unsafe fn multiply_band<S: Source>(
    tiles: &Tiles,
    job: &Job<'_>,
    first: usize,
    panels: usize,
    cols: Range<usize>,
    b: *const u8,
    c: *mut u8,
) {
    let last = cols.end == job.cols;
    let parts = job.input.bf16_parts();
    assert!(parts >= S::INPUT_PARTS, "the form that the weights want was set");
    let block_tiles = job.cols.div_ceil(GROUP) * parts;
    let lines = job.input.bf16();
    let lines = &lines[job.blocks.start * block_tiles * TILE_ROWS..job.blocks.end * block_tiles * TILE_ROWS];
    let (steps, add) = (cols.len().div_ceil(GROUP), cols.start > 0);
    let area = |at: *const u8, parts: usize, beside: usize| Area {
        at,
        stride: LINE,
        step: parts * TILE,
        low: TILE,
        beside,
    };
    let (b, blocks) = (area(b, S::PARTS, STEPS * TILE), job.blocks.len());
    let at = lines
        .as_ptr()
        .cast::<u8>()
        .wrapping_add(cols.start / GROUP * parts * TILE);
    let a = area(at, parts, block_tiles * TILE);
    for block in 0..blocks {
        if last {
            prefetch_outputs(job, job.blocks.start + block, first);
        }
        let c = Target {
            at: c.wrapping_add(block * PAIR * TILE),
            stride: PAIR * LINE,
            beside: LINE,
        };
        let a = a.beside(block);
        // SAFETY: `lines` has the tiles of the block; `b` and `c`, the caller says.
        unsafe {
            match (S::INPUT_PARTS, S::PARTS) {
                (1, _) => multiply_panels::<1, 1>(tiles, panels, a, b, c, steps, add),
                (_, 1) => multiply_panels::<2, 1>(tiles, panels, a, b, c, steps, add),
                _ => multiply_panels::<2, 2>(tiles, panels, a, b, c, steps, add),
            }
        }
    }
}

/// `multiply_block` with two panels, or the one that there is.
///
/// # Safety
/// As `multiply_block`.
#[inline(always)]
unsafe fn multiply_panels<const PA: usize, const PB: usize>(
    tiles: &Tiles,
    panels: usize,
    a: Area,
    b: Area,
    c: Target,
    steps: usize,
    add: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if panels > 1 {
            multiply_block::<2, PA, PB>(tiles, a, b, c, steps, add);
        } else {
            multiply_block::<1, PA, PB>(tiles, a, b, c, steps, add);
        }
    }
}

/// Asks for the lines that a block of outputs will go to. Each row's are on a page of their own, far from the others:
/// fetched one after the other they would cost as much time as the products.
#[inline(always)]
fn prefetch_outputs(job: &Job<'_>, block: usize, first: usize) {
    let at = block * TILE_ROWS;
    for row in at..(at + TILE_ROWS).min(job.input.bf16_rows()) {
        let y = job.out.y.address(row * job.rows + first * PANEL).cast::<i8>();
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
unsafe fn store_block(job: &Job<'_>, block: usize, first: usize, panels: usize, c: *const f32) {
    let at = first * PANEL;
    let len = (panels * PANEL).min(job.rows - at);
    for row in 0..TILE_ROWS.min(job.input.bf16_rows() - block * TILE_ROWS) {
        // SAFETY: a row of the tiles of both panels, or of the one that there is, which were stored whole.
        let values = unsafe { std::slice::from_raw_parts(c.add(row * PAIR * PANEL), len) };
        job.out.store(block * TILE_ROWS + row, at, values);
    }
}
