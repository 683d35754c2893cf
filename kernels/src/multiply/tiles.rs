//! Packed weights with many generated tokens, by int8 tiles.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8`, so that a row's results do not
//! tell which of the two made them.
//!
//! A tile instruction costs about the same for 32 columns as for 64, and a scale covers at most 32: so each product
//! ends with its group. Codes are unpacked some groups ahead of the tiles, and those work some groups ahead of the
//! vectors that add up the products, so that nobody waits for what was just stored.
#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Packed;
use crate::amx::{Amx, Shapes, Tiles, tile_dpbsud, tile_load, tile_store, tile_zero};
use crate::input::{Group, TILE_ROWS};
use crate::packed::layout::{FOURS, GROUP, LINE, PANEL};
use crate::packed::registers::{Kind, Strip, codes, head, scale_and_min, with_kind};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// With fewer rows, dot products by vectors are as fast.
pub(super) const ROWS_MIN: usize = 6;

/// How far ahead of the codes in use others are asked for.
const AHEAD: usize = 2 << 10;

/// The products of some panels with some of the int8 rows.
pub(super) struct Rows<'a> {
    pub part: &'a Packed<'a>,
    pub panels: Range<usize>,
    pub rows: Range<usize>,
}

impl Rows<'_> {
    pub(super) fn run(self, amx: Amx) {
        // Blocks of about the same height.
        let blocks = self.rows.len().div_ceil(TILE_ROWS);
        for block in 0..blocks {
            let at = |block: usize| self.rows.start + self.rows.len() * block / blocks;
            let rows = at(block)..at(block + 1);
            // SAFETY: the token proves the instructions.
            with_kind!(self.part.w.format, K => unsafe {
                if rows.len() <= 8 {
                    block_of::<K, 8>(amx, &self, rows);
                } else {
                    block_of::<K, 16>(amx, &self, rows);
                }
            });
        }
    }
}

/// How many groups the tiles are ahead of the sums, and the unpacking of codes of the tiles.
const LEAD: usize = 2;
/// Groups that are under way.
const SLOTS: usize = 8;

/// The codes of a group as a tile, and the sums of products (two for groups of 16 columns), each row of 16.
#[repr(C, align(64))]
struct Slot {
    codes: [u8; FOURS * LINE],
    sums: [[[i32; PANEL]; TILE_ROWS]; 2],
}

/// At most `R` rows with all panels.
///
/// # Safety
/// The processor has what the token proves.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn block_of<K: Kind, const R: usize>(amx: Amx, job: &Rows<'_>, rows: Range<usize>) {
    let count = rows.len();
    assert!(count >= 1 && count <= R && R <= TILE_ROWS);
    let w = job.part.w;
    let (int8, groups) = job.part.input.int8();
    let per_row = w.cols / GROUP;
    let (int8, groups) = (
        &int8[rows.start * w.cols..rows.end * w.cols],
        &groups[rows.start * per_row..rows.end * per_row],
    );
    // Sums that no row is for take the last row's numbers, and go nowhere.
    let mut row_groups = [groups.as_ptr(); R];
    for (row, at) in row_groups.iter_mut().enumerate() {
        *at = groups[row.min(count - 1) * per_row..].as_ptr();
    }
    let (sums, products, fours) = ((count, 4 * PANEL), (count, K::LAYOUT.group), K::LAYOUT.group / 4);
    let codes = (fours, LINE);
    let shapes = Shapes::new([sums, sums, sums, sums, products, products, codes, codes]);
    let tiles = Tiles::new(amx, &shapes);
    let mut slots = [const {
        Slot {
            codes: [0; FOURS * LINE],
            sums: [[[0; PANEL]; TILE_ROWS]; 2],
        }
    }; SLOTS];
    let mut flow = Flow {
        t: amx.vnni(),
        tiles,
        per_row,
        cols: w.cols,
        int8: int8.as_ptr(),
        groups: &row_groups,
        slots: &mut slots,
    };
    let total = job.panels.len() * per_row;
    let strip = |panel: usize| Strip::new::<Vnni>(K::LAYOUT, w.panel(job.panels.start + panel), w.cols, 0);
    // SAFETY: `unpacked` and `multiplied` count groups of all panels in order, so panels and groups are there.
    unsafe {
        let (mut unpacked, mut multiplied) = (0, 0);
        for panel in 0..job.panels.len() {
            let acc = flow.panel_sums::<K>(&strip, panel, total, &mut unpacked, &mut multiplied);
            let first = (job.panels.start + panel) * PANEL;
            let len = PANEL.min(w.rows - first);
            for row in 0..count {
                let mut values = [0.0; PANEL];
                _mm512_storeu_ps(values.as_mut_ptr(), acc[row]);
                job.part.store(rows.start + row, first, &values[..len]);
            }
        }
    }
}

/// Groups on their way through unpacking, tiles and sums. `R` rows of activations, the first at `int8`.
struct Flow<'a, const R: usize> {
    t: Vnni,
    /// Configured for the rows and the format.
    tiles: Tiles,
    per_row: usize,
    cols: usize,
    int8: *const i8,
    groups: &'a [*const Group; R],
    slots: &'a mut [Slot; SLOTS],
}

impl<const R: usize> Flow<'_, R> {
    /// The sums of all rows for a panel.
    ///
    /// # Safety
    /// `strip` gives whole panels of `cols` columns, as many as `total` groups have; all rows have as many columns.
    #[inline(always)]
    unsafe fn panel_sums<K: Kind>(
        &mut self,
        strip: &impl Fn(usize) -> Strip,
        panel: usize,
        total: usize,
        unpacked: &mut usize,
        multiplied: &mut usize,
    ) -> [__m512; R] {
        let layout = K::LAYOUT;
        let per_block = layout.block_cols() / GROUP;
        // SAFETY: the processor has AVX-512; blocks and groups are those of the panel, as the caller says.
        unsafe {
            let (this, next) = (strip(panel), strip((panel + 1).min(total / self.per_row - 1)));
            let mut acc = [_mm512_setzero_ps(); R];
            for block in 0..self.per_row / per_block {
                let scales = this.scales.add(block * layout.block_scales());
                let head = head::<Vnni, K>(self.t, scales, 0);
                for part in 0..per_block {
                    let group = block * per_block + part;
                    let done = panel * self.per_row + group;
                    while *unpacked < total && *unpacked <= done + 2 * LEAD {
                        let ahead = *unpacked - panel * self.per_row;
                        let codes = if ahead < self.per_row {
                            this.codes.add(ahead * layout.group_codes())
                        } else if ahead < 2 * self.per_row {
                            next.codes.add((ahead - self.per_row) * layout.group_codes())
                        } else {
                            break;
                        };
                        self.unpack::<K>(codes, *unpacked % SLOTS);
                        *unpacked += 1;
                    }
                    while *multiplied < *unpacked && *multiplied <= done + LEAD {
                        self.multiply::<K>(*multiplied % self.per_row, *multiplied % SLOTS);
                        *multiplied += 1;
                    }
                    self.add::<K>(&mut acc, group, done % SLOTS, scales, part, head);
                }
            }
            acc
        }
    }

    /// Adds the products of a group.
    ///
    /// # Safety
    /// As `panel_sums`; `scales` are those of the block that has the group as its `part`.
    #[inline(always)]
    unsafe fn add<K: Kind>(
        &self,
        acc: &mut [__m512; R],
        group: usize,
        slot: usize,
        scales: *const u8,
        part: usize,
        head: (__m512, __m512),
    ) {
        let slot = &self.slots[slot];
        let halves = GROUP / K::LAYOUT.group;
        for half in 0..halves {
            // SAFETY: the processor has AVX-512; the caller's promises.
            unsafe {
                let (scale, min) = scale_and_min::<Vnni, K>(self.t, scales, 0, halves * part + half, head);
                for r in 0..R {
                    let g = &*self.groups[r].add(group);
                    let (minus_sum, scaled_sum) = if halves == 1 {
                        (g.minus_sum, g.scaled_sum)
                    } else {
                        (g.minus_halves[half], g.scaled_halves[half])
                    };
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(g.scale));
                    acc[r] = _mm512_fmadd_ps(dot::<K>(&slot.sums[half][r], minus_sum), scale, acc[r]);
                    if K::LAYOUT.mins {
                        acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(scaled_sum), acc[r]);
                    }
                }
            }
        }
    }

    /// Puts the codes of a group into a slot.
    ///
    /// # Safety
    /// `at` are the codes of a group of a panel.
    #[inline(always)]
    unsafe fn unpack<K: Kind>(&mut self, at: *const u8, slot: usize) {
        for line in 0..K::LAYOUT.planes.lines() {
            self.t.prefetch(at.wrapping_add(AHEAD + line * LINE));
        }
        let slot = &mut self.slots[slot];
        // SAFETY: the caller's promise; the slot has room for eight lines.
        unsafe {
            for (i, codes) in codes::<Vnni, K>(self.t, at).into_iter().enumerate() {
                _mm512_store_si512(slot.codes.as_mut_ptr().add(i * LINE).cast(), codes);
            }
        }
    }

    /// The products of a slot's codes with the activations of a group.
    ///
    /// # Safety
    /// The tiles have the shapes of the format and of the rows, which have such a group.
    #[inline(always)]
    unsafe fn multiply<K: Kind>(&mut self, group: usize, slot: usize) {
        let _configured = &self.tiles;
        let slot = &mut self.slots[slot];
        // SAFETY: the caller's promise; the slot has room for the tiles.
        unsafe {
            let x8 = self.int8.add(group * GROUP);
            tile_zero!("tmm0");
            tile_load!("tmm4", x8, self.cols);
            tile_load!("tmm6", slot.codes.as_ptr(), LINE);
            tile_dpbsud!("tmm0", "tmm4", "tmm6");
            if K::LAYOUT.group < GROUP {
                tile_zero!("tmm1");
                tile_load!("tmm5", x8.add(K::LAYOUT.group), self.cols);
                tile_load!("tmm7", slot.codes.as_ptr().add(FOURS / 2 * LINE), LINE);
                tile_dpbsud!("tmm1", "tmm5", "tmm7");
                tile_store!("tmm0", slot.sums[0].as_mut_ptr(), LINE);
                tile_store!("tmm1", slot.sums[1].as_mut_ptr(), LINE);
            } else {
                tile_store!("tmm0", slot.sums[0].as_mut_ptr(), LINE);
            }
        }
    }
}

/// A row of a product, less the offset for each activation.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn dot<K: Kind>(sums: &[i32; PANEL], minus_sum: i32) -> __m512 {
    // SAFETY: the caller's promise; the row is a vector long.
    unsafe {
        let mut dot = _mm512_loadu_si512(sums.as_ptr().cast());
        if K::LAYOUT.offset > 0 {
            // Wraps for no input: 32 codes below 256 times 127.
            let start = minus_sum << K::LAYOUT.offset.trailing_zeros();
            dot = _mm512_add_epi32(dot, _mm512_set1_epi32(start));
        }
        _mm512_cvtepi32_ps(dot)
    }
}
