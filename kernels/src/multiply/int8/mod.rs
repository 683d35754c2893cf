//! Packed weights with activations in int8, for one row and for several.
//!
//! Invariant: integers are exact and floats have one order, given by `by_32` and `by_256`. However many rows and panels
//! are walked at once, a row's floats are the same.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

mod by_256;
mod by_32;

use std::marker::PhantomData;
use std::ops::Range;

use super::Packed;
use crate::Isa;
use crate::input::{Input, Unit};
use crate::packed::layout::{GROUP, LINE, PANEL};
use crate::packed::registers::{Kind, Strip, with_kind};
use crate::simd::int8::{F32, I32, Int8, Int8Kernel};
use crate::simd::{Level, Simd};

/// Panels that one row or two walk at once beside tiles: those processors read memory faster by several streams than by
/// one. Others read one stream as fast as they can, if it is asked for in order and long before.
pub(super) const STREAMS: usize = 4;

/// How far ahead of the codes in use others are asked for in streams. A line's time on its way is about that of so many
/// bytes.
const AHEAD: usize = 2 << 10;

/// From so many rows on, some panels take turns within them, so that the outputs of a row are stored side by side: those
/// of rows one below the other often compete for one place in the caches.
const MANY: usize = 64;
const BESIDE: usize = 4;

/// Sums of products with activations of one kind of unit.
pub(super) trait Sums: Unit {
    /// The rows in int8.
    fn rows(input: &Input) -> (&[i8], &[Self]);

    /// # Safety
    /// Each strip is one of a whole panel of `x.cols` columns, and x has `R` rows.
    unsafe fn sums<T: Int8, K: Kind, const P: usize, const R: usize>(
        t: T,
        strips: [Strip; P],
        half: usize,
        x: Activations<Self>,
        fetch: Fetch,
    ) -> [[F32<T>; R]; P];
}

/// Computes the outputs of some panels for some of the int8 rows.
pub(super) fn rows(level: Level, part: &Packed<'_>, panels: Range<usize>, rows: Range<usize>) {
    with_kind!(part.w.format, K => walk::<K>(level, part, panels, rows));
}

fn walk<K: Kind<Unit: Sums>>(level: Level, part: &Packed<'_>, panels: Range<usize>, rows: Range<usize>) {
    if rows.len() > 2 || level.isa() != Isa::Amx {
        let at_once = if level.isa() >= Isa::Avx512 { 8 } else { 4 };
        let beside = if rows.len() >= MANY { BESIDE } else { 1 };
        for first in panels.clone().step_by(beside) {
            let panels = first..panels.end.min(first + beside);
            many_rows::<K>(level, part, panels, rows.clone(), at_once);
        }
        return;
    }
    // Streams begin at equal distances, so that each walks panels that follow one another.
    let distance = panels.len() / STREAMS;
    let first = panels.start;
    for step in 0..distance {
        let mut four = [0; STREAMS];
        for (stream, panel) in four.iter_mut().enumerate() {
            *panel = first + stream * distance + step;
        }
        few_rows::<K, STREAMS>(level, part, four, rows.clone());
    }
    for panel in first + STREAMS * distance..panels.end {
        few_rows::<K, 1>(level, part, [panel], rows.clone());
    }
}

/// Some panels with one row or two.
fn few_rows<K: Kind<Unit: Sums>, const P: usize>(
    level: Level,
    part: &Packed<'_>,
    panels: [usize; P],
    rows: Range<usize>,
) {
    let fetch = Fetch::next(part, panels[0], 0, 1);
    match rows.len() {
        0 => (),
        1 => level.run_int8(Block::<K, P, 1>::new(part, panels, rows.start, fetch)),
        _ => level.run_int8(Block::<K, P, 2>::new(part, panels, rows.start, fetch)),
    }
}

/// Some panels with all rows, by as many rows at once as the registers hold. Meanwhile the next panels come from memory.
fn many_rows<K: Kind<Unit: Sums>>(
    level: Level,
    part: &Packed<'_>,
    panels: Range<usize>,
    rows: Range<usize>,
    at_once: usize,
) {
    let mut row = rows.start;
    while row < rows.end {
        let left = rows.end - row;
        let (block, blocks) = ((row - rows.start) / at_once, rows.len().div_ceil(at_once));
        let mut fetch = Fetch::next(part, panels.start, block, blocks);
        fetch.distance *= panels.len();
        let at_once = match left {
            8.. => at_once,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        for panel in panels.clone() {
            match at_once {
                8 => level.run_int8(Block::<K, 1, 8>::new(part, [panel], row, fetch)),
                4 => level.run_int8(Block::<K, 1, 4>::new(part, [panel], row, fetch)),
                2 => level.run_int8(Block::<K, 1, 2>::new(part, [panel], row, fetch)),
                _ => level.run_int8(Block::<K, 1, 1>::new(part, [panel], row, fetch)),
            }
        }
        row += at_once;
    }
}

/// What of the weights is asked for while a panel is in use.
#[derive(Clone, Copy)]
pub(super) struct Fetch {
    /// How many bytes it lies behind.
    distance: usize,
    /// Of the lines of a group: each `step`th from `first` on.
    first: usize,
    step: usize,
}

impl Fetch {
    /// The part of the next panel that falls to one of so many blocks of rows.
    fn next(part: &Packed<'_>, panel: usize, block: usize, blocks: usize) -> Fetch {
        Fetch {
            distance: part.w.panel(panel).len(),
            first: block,
            step: blocks,
        }
    }
}

/// `P` panels with `R` rows. A kernel of its own, since compilers take long over large functions.
struct Block<'a, K, const P: usize, const R: usize> {
    part: &'a Packed<'a>,
    panels: [usize; P],
    row: usize,
    fetch: Fetch,
    kind: PhantomData<K>,
}

impl<'a, K: Kind<Unit: Sums>, const P: usize, const R: usize> Block<'a, K, P, R> {
    fn new(part: &'a Packed<'a>, panels: [usize; P], row: usize, fetch: Fetch) -> Block<'a, K, P, R> {
        Block {
            part,
            panels,
            row,
            fetch,
            kind: PhantomData,
        }
    }
}

impl<K: Kind<Unit: Sums>, const P: usize, const R: usize> Int8Kernel for Block<'_, K, P, R> {
    #[inline(always)]
    fn run<T: Int8>(self, t: T) {
        let (w, input) = (self.part.w, self.part.input);
        let lanes = T::Floats::LANES;
        if R > 1 {
            // Each row's outputs are on a page of their own: fetched one after the other they would cost as much time as
            // the products.
            for r in 0..R {
                for p in 0..P {
                    let at = (self.row + r) * w.rows + self.panels[p] * PANEL;
                    t.prefetch_to_write(self.part.out.y.address(at).cast());
                }
            }
        }
        for half in 0..PANEL / lanes {
            let mut strips = [Strip::NONE; P];
            for p in 0..P {
                strips[p] = Strip::new::<T>(K::LAYOUT, w.panel(self.panels[p]), w.cols, half);
            }
            let x = Activations::new::<R>(K::Unit::rows(input), w.cols, self.row);
            // SAFETY: strips and rows are whole: both have `w.cols` columns.
            let acc = unsafe { K::Unit::sums::<T, K, P, R>(t, strips, half, x, self.fetch) };
            for p in 0..P {
                let first = self.panels[p] * PANEL + half * lanes;
                let len = lanes.min(w.rows.saturating_sub(first));
                for r in 0..R {
                    if len > 0 {
                        self.part
                            .out
                            .store_vector(t.floats(), self.row + r, first, len, acc[p][r]);
                    }
                }
            }
        }
    }
}

/// Some rows of activations, beginning with a first.
#[derive(Clone, Copy)]
pub(super) struct Activations<U> {
    int8: *const i8,
    units: *const U,
    cols: usize,
}

impl<U: Unit> Activations<U> {
    /// `R` of the rows of `x`, from `row` on.
    ///
    /// # Panics
    /// If there are fewer.
    fn new<const R: usize>((int8, units): (&[i8], &[U]), cols: usize, row: usize) -> Activations<U> {
        let per_row = cols / U::COLS;
        let (int8, units) = (
            &int8[row * cols..][..R * cols],
            &units[row * per_row..][..R * per_row],
        );
        Activations {
            int8: int8.as_ptr(),
            units: units.as_ptr(),
            cols,
        }
    }

    /// Unit `unit` of row `row`.
    ///
    /// # Safety
    /// There is such a row and unit.
    #[inline(always)]
    unsafe fn unit<'a>(self, row: usize, unit: usize) -> &'a U {
        // SAFETY: as the caller says.
        unsafe { &*self.units.add(row * (self.cols / U::COLS) + unit) }
    }

    /// The values of the first `R` rows from column `col` on.
    ///
    /// # Safety
    /// There are so many rows and columns.
    #[inline(always)]
    unsafe fn values<const R: usize>(self, col: usize) -> [*const i8; R] {
        let mut values = [self.int8; R];
        for r in 0..R {
            // SAFETY: as the caller says.
            values[r] = unsafe { self.int8.add(r * self.cols + col) };
        }
        values
    }
}

/// Asks for what will be wanted when a group of one of `P` panels is in use.
#[inline(always)]
fn fetch_ahead<T: Int8, K: Kind, const P: usize>(t: T, strip: Strip, group: usize, fetch: Fetch) {
    let layout = K::LAYOUT;
    if P > 1 {
        for line in 0..layout.planes.lines() {
            let at = group * layout.group_codes() + AHEAD + line * LINE;
            t.prefetch(strip.codes.wrapping_add(at));
        }
        return;
    }
    // In the order of memory: scales, which lie before all codes, are fetched with the first groups.
    let share = layout.group_codes() + layout.block_scales() * GROUP / layout.block_cols();
    let mut line = fetch.first;
    while line < share.div_ceil(LINE) {
        let at = group * share + fetch.distance + line * LINE;
        t.prefetch(strip.scales.wrapping_add(at));
        line += fetch.step;
    }
}

/// Sums of rows with the same codes, each begun with its start.
///
/// # Safety
/// Each of `x` has `4 * N` values.
#[inline(always)]
unsafe fn dots<T: Int8, K: Kind, const N: usize, const R: usize>(
    t: T,
    starts: [I32<T>; R],
    codes: &[T::Codes; N],
    x: [*const i8; R],
) -> [I32<T>; R] {
    // SAFETY: as the caller says. Codes have at most so many bits, by the layout.
    unsafe {
        match K::LAYOUT.bits() {
            0..=4 => t.dots::<4, N, R>(starts, codes, x),
            5 => t.dots::<5, N, R>(starts, codes, x),
            6 => t.dots::<6, N, R>(starts, codes, x),
            _ => t.dots::<8, N, R>(starts, codes, x),
        }
    }
}

/// Whether the dot products of `T` leave the format's offset in.
fn keeps_offset<T: Int8, K: Kind>() -> bool {
    K::LAYOUT.offset != 0 && !(T::CENTRED && K::LAYOUT.bits() == 8)
}
