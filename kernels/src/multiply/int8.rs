//! Packed weights with activations in int8, for one row and for several.
//!
//! Invariant: `dot` of a group is exact; `acc = fma(dot, scale_w * scale_x, acc)`, then, where there are minimums,
//! `acc = fma(min_w, scale_x * sum(x), acc)`, group after group in order of columns. However many rows and panels are
//! walked at once, a row's floats are the same.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use super::Packed;
use crate::Isa;
use crate::input::Group;
use crate::packed::Layout;
use crate::packed::layout::{FOURS, GROUP, PANEL};
use crate::packed::registers::{Kind, Strip, codes, head, scale_and_min, with_kind};
use crate::simd::int8::{F32, I32, Int8, Int8Kernel};
use crate::simd::{Level, Simd};

/// Panels walked at once: a core reads memory faster by several streams than by one.
pub(super) const STREAMS: usize = 4;

/// How far ahead of the codes in use others are asked for. A line's time on its way is about that of so many bytes.
const AHEAD: usize = 2 << 10;

/// Computes the outputs of some panels for some of the int8 rows.
pub(super) fn rows(level: Level, part: &Packed<'_>, panels: Range<usize>, rows: Range<usize>) {
    with_kind!(part.w.format, K => walk::<K>(level, part, panels, rows));
}

fn walk<K: Kind>(level: Level, part: &Packed<'_>, panels: Range<usize>, rows: Range<usize>) {
    // Streams begin at equal distances, so that each walks panels that follow one another.
    let distance = panels.len() / STREAMS;
    let first = panels.start;
    for step in 0..distance {
        let mut four = [0; STREAMS];
        for (stream, panel) in four.iter_mut().enumerate() {
            *panel = first + stream * distance + step;
        }
        all_rows::<K, STREAMS>(level, part, four, rows.clone());
    }
    for panel in first + STREAMS * distance..panels.end {
        all_rows::<K, 1>(level, part, [panel], rows.clone());
    }
}

/// Some panels with all rows, by as many rows at once as the registers hold.
fn all_rows<K: Kind, const P: usize>(
    level: Level,
    part: &Packed<'_>,
    panels: [usize; P],
    rows: Range<usize>,
) {
    let many_registers = level.isa() >= Isa::Avx512;
    // What the first rows bring into the cache, the others find there.
    let mut fetch = true;
    let mut row = rows.start;
    while row < rows.end {
        let left = rows.end - row;
        let count = if left >= 8 && many_registers {
            for panel in panels {
                level.run_int8(Block::<K, 1, 8>::new(part, [panel], row, fetch));
            }
            8
        } else if left >= 4 && many_registers {
            level.run_int8(Block::<K, P, 4>::new(part, panels, row, fetch));
            4
        } else if left >= 4 {
            for panel in panels {
                level.run_int8(Block::<K, 1, 4>::new(part, [panel], row, fetch));
            }
            4
        } else {
            level.run_int8(Block::<K, P, 1>::new(part, panels, row, fetch));
            1
        };
        row += count;
        fetch = false;
    }
}

/// `P` panels with `R` rows. A kernel of its own, since compilers take long over large functions.
struct Block<'a, K, const P: usize, const R: usize> {
    part: &'a Packed<'a>,
    panels: [usize; P],
    row: usize,
    /// Whether the weights may not be in the cache yet.
    fetch: bool,
    kind: PhantomData<K>,
}

impl<'a, K: Kind, const P: usize, const R: usize> Block<'a, K, P, R> {
    fn new(part: &'a Packed<'a>, panels: [usize; P], row: usize, fetch: bool) -> Block<'a, K, P, R> {
        Block {
            part,
            panels,
            row,
            fetch,
            kind: PhantomData,
        }
    }
}

impl<K: Kind, const P: usize, const R: usize> Int8Kernel for Block<'_, K, P, R> {
    #[inline(always)]
    fn run<T: Int8>(self, t: T) {
        let w = self.part.w;
        let (int8, groups) = self.part.input.int8();
        // The rows are there, and each has `w.cols` columns.
        let per_row = w.cols / GROUP;
        let (int8, groups) = (
            &int8[self.row * w.cols..][..R * w.cols],
            &groups[self.row * per_row..][..R * per_row],
        );
        let x = Activations {
            int8: int8.as_ptr(),
            groups: groups.as_ptr(),
            cols: w.cols,
        };
        let lanes = T::Floats::LANES;
        for half in 0..PANEL / lanes {
            let mut strips = [Strip::NONE; P];
            for p in 0..P {
                strips[p] = Strip::new::<T>(K::LAYOUT, w.panel(self.panels[p]), w.cols, half);
            }
            // SAFETY: strips and rows are whole, as just seen.
            let acc = unsafe { sums::<T, K, P, R>(t, strips, half, x, self.fetch) };
            for p in 0..P {
                let first = self.panels[p] * PANEL + half * lanes;
                let len = lanes.min(w.rows.saturating_sub(first));
                for r in 0..R {
                    let mut values = [0.0; PANEL];
                    t.floats().store(&mut values, acc[p][r]);
                    if len > 0 {
                        self.part.store(self.row + r, first, &values[..len]);
                    }
                }
            }
        }
    }
}

/// `R` rows of activations, beginning with a first.
#[derive(Clone, Copy)]
struct Activations {
    int8: *const i8,
    groups: *const Group,
    cols: usize,
}

impl Activations {
    /// Group `group` of row `row`.
    ///
    /// # Safety
    /// There is such a row and group.
    #[inline(always)]
    unsafe fn group<'a>(self, row: usize, group: usize) -> (*const i8, &'a Group) {
        // SAFETY: as the caller says.
        unsafe {
            (
                self.int8.add(row * self.cols + group * GROUP),
                &*self.groups.add(row * (self.cols / GROUP) + group),
            )
        }
    }
}

/// # Safety
/// Each strip is one of a whole panel of `x.cols` columns, and x has `R` rows.
#[inline(always)]
unsafe fn sums<T: Int8, K: Kind, const P: usize, const R: usize>(
    t: T,
    strips: [Strip; P],
    half: usize,
    x: Activations,
    fetch: bool,
) -> [[F32<T>; R]; P] {
    let layout = K::LAYOUT;
    let s = t.floats();
    let mut acc = [[s.splat(0.0); R]; P];
    let per_block = layout.block_cols() / GROUP;
    for block in 0..x.cols / layout.block_cols() {
        let mut scales = [std::ptr::null(); P];
        let mut heads = [(s.splat(0.0), s.splat(0.0)); P];
        for p in 0..P {
            // SAFETY: the panel has so many blocks.
            unsafe {
                scales[p] = strips[p].scales.add(block * layout.block_scales());
                heads[p] = head::<T, K>(t, scales[p], half);
            }
        }
        for part in 0..per_block {
            let group = block * per_block + part;
            for p in 0..P {
                let at = strips[p].codes.wrapping_add(group * layout.group_codes());
                if fetch {
                    for line in 0..layout.planes.lines() {
                        t.prefetch(at.wrapping_add(AHEAD + line * 64));
                    }
                }
                // SAFETY: the panel has such a group, and x such a group in each of its rows.
                unsafe {
                    let codes = codes::<T, K>(t, at);
                    group_sums::<T, K, R>(
                        t,
                        &codes,
                        scales[p],
                        half,
                        (part, group),
                        heads[p],
                        x,
                        &mut acc[p],
                    );
                }
            }
        }
    }
    acc
}

/// Adds what 32 columns contribute.
///
/// # Safety
/// `block` are the scales of the block that has group `at.0`, which is group `at.1` of x.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn group_sums<T: Int8, K: Kind, const R: usize>(
    t: T,
    codes: &[T::Codes; FOURS],
    block: *const u8,
    half: usize,
    at: (usize, usize),
    head: (F32<T>, F32<T>),
    x: Activations,
    acc: &mut [F32<T>; R],
) {
    let s = t.floats();
    let layout = K::LAYOUT;
    // SAFETY: the caller's promises are those of each call below.
    unsafe {
        if layout.group == GROUP {
            let (scale, min) = scale_and_min::<T, K>(t, block, half, at.0, head);
            for r in 0..R {
                let (q, g) = x.group(r, at.1);
                let dot = dots::<T, K, FOURS>(t, start::<T>(t, layout, g.minus_sum), codes, q);
                acc[r] = s.fma(s.to_f32(dot), s.mul(scale, s.splat(g.scale)), acc[r]);
                if layout.mins {
                    acc[r] = s.fma(min, s.splat(g.scaled_sum), acc[r]);
                }
            }
            return;
        }
        let mut scales = [(s.splat(0.0), s.splat(0.0)); 2];
        for i in 0..2 {
            scales[i] = scale_and_min::<T, K>(t, block, half, 2 * at.0 + i, head);
        }
        for r in 0..R {
            let (q, g) = x.group(r, at.1);
            for i in 0..2 {
                let codes = [codes[4 * i], codes[4 * i + 1], codes[4 * i + 2], codes[4 * i + 3]];
                let start = start::<T>(t, layout, g.minus_halves[i]);
                let dot = dots::<T, K, 4>(t, start, &codes, q.add(16 * i));
                acc[r] = s.fma(s.to_f32(dot), s.mul(scales[i].0, s.splat(g.scale)), acc[r]);
                if layout.mins {
                    acc[r] = s.fma(scales[i].1, s.splat(g.scaled_halves[i]), acc[r]);
                }
            }
        }
    }
}

/// What the sum of a group begins with: minus the offset for each activation.
#[inline(always)]
fn start<T: Int8>(t: T, layout: Layout, minus_sum: i32) -> I32<T> {
    let s = t.floats();
    if layout.offset == 0 || T::CENTRED && layout.bits() == 8 {
        return s.splat_i32(0);
    }
    s.shl(s.splat_i32(minus_sum), layout.offset.trailing_zeros())
}

/// # Safety
/// `x` has `4 * N` values.
#[inline(always)]
unsafe fn dots<T: Int8, K: Kind, const N: usize>(
    t: T,
    start: I32<T>,
    codes: &[T::Codes; N],
    x: *const i8,
) -> I32<T> {
    // SAFETY: as the caller says. Codes have at most so many bits, by the layout.
    unsafe {
        match K::LAYOUT.bits() {
            0..=4 => t.dots::<4, N>(start, codes, x),
            5 => t.dots::<5, N>(start, codes, x),
            6 => t.dots::<6, N>(start, codes, x),
            _ => t.dots::<8, N>(start, codes, x),
        }
    }
}
