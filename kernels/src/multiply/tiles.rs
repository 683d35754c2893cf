//! Packed weights with many generated tokens, by int8 tiles.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8`, so that a row's results do not
//! tell which of the two made them.
//!
//! A tile instruction costs about the same for 32 columns as for 64, and a scale covers at most 32: so each product
//! ends with its group. Stored tiles take long to become readable: codes are unpacked some groups ahead of the tiles,
//! and those work some groups ahead of the vectors that add up the products, so that nobody waits.
#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Packed;
use crate::amx::{Amx, Shapes, Tiles, tile_dpbsud, tile_load, tile_store, tile_zero};
use crate::input::TILE_ROWS;
use crate::input::tiled::{Block, Blocks};
use crate::packed::layout::{FOURS, GROUP, LINE, PANEL};
use crate::packed::registers::{Kind, Strip, codes, head, scale_and_min, with_kind};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// How far ahead of the codes in use others are asked for.
const AHEAD: usize = 2 << 10;

/// How many groups the tiles are ahead of the sums, and the unpacking of codes of the tiles.
const LEAD: usize = 3;
/// Groups that are under way.
const SLOTS: usize = 8;
const _: () = assert!(SLOTS > 2 * LEAD);

/// The products of some panels with all int8 rows.
pub(super) fn panels(amx: Amx, part: &Packed<'_>, panels: Range<usize>, blocks: Blocks) {
    if panels.is_empty() {
        return;
    }
    for block in 0..blocks.count() {
        let job = Job {
            part,
            panels: panels.clone(),
            x: part.input.tiled(block),
            rows: blocks.rows(block),
        };
        // SAFETY: the token proves the instructions.
        with_kind!(part.w.format, K => unsafe {
            if job.rows.len() <= 8 {
                job.run::<K, 8>(amx);
            } else {
                job.run::<K, 16>(amx);
            }
        });
    }
}

/// Some panels with a block of rows.
struct Job<'a> {
    part: &'a Packed<'a>,
    panels: Range<usize>,
    x: Block<'a>,
    rows: Range<usize>,
}

/// The codes of a group as a tile, and the sums of products (two for groups of 16 columns), each row of 16.
#[repr(C, align(64))]
struct Slots {
    codes: [[u8; FOURS * LINE]; SLOTS],
    sums: [[[i32; PANEL]; TILE_ROWS]; 2 * SLOTS],
}

impl Job<'_> {
    /// At most `R` rows with all panels.
    ///
    /// # Safety
    /// The processor has what the token proves.
    #[inline(never)]
    #[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn run<K: Kind, const R: usize>(&self, amx: Amx) {
        let count = self.rows.len();
        assert!(count >= 1 && count <= R && R <= TILE_ROWS);
        let (w, layout) = (self.part.w, K::LAYOUT);
        let per_row = w.cols / GROUP;
        assert!(self.x.codes.len() == per_row && self.x.floats.len() == per_row);
        let (sums, products, fours) = ((count, 4 * PANEL), (count, layout.group), layout.group / 4);
        let codes = (fours, LINE);
        let shapes = Shapes::new([sums, sums, sums, sums, products, products, codes, codes]);
        let mut slots = std::mem::MaybeUninit::<Slots>::uninit();
        let first = Strip::new::<Vnni>(layout, w.panel(self.panels.start), w.cols, 0);
        let mut flow = Flow {
            t: amx.vnni(),
            tiles: Tiles::new(amx, &shapes),
            per_row,
            scales_bytes: first.codes as usize - first.scales as usize,
            x: self.x,
            slots: slots.as_mut_ptr(),
            codes: first.codes,
            unpacked: Cursor::new(self.panels.len()),
            multiplied: Cursor::new(self.panels.len()),
        };
        let per_block = layout.block_cols() / GROUP;
        // SAFETY: cursors stay within the panels; slots are written `LEAD` groups before they are read, rows that the
        // tiles do not have are only read where the sums go nowhere.
        unsafe {
            std::ptr::write_bytes(&raw mut (*flow.slots).sums, 0, 1);
            (0..2 * LEAD).for_each(|_| flow.unpack::<K>());
            (0..LEAD).for_each(|_| flow.multiply::<K>());
            let mut slot = 0;
            for panel in self.panels.clone() {
                let strip = Strip::new::<Vnni>(layout, w.panel(panel), w.cols, 0);
                let mut acc = [_mm512_setzero_ps(); R];
                for block in 0..per_row / per_block {
                    let scales = strip.scales.add(block * layout.block_scales());
                    let head = head::<Vnni, K>(flow.t, scales, 0);
                    for part in 0..per_block {
                        flow.unpack::<K>();
                        flow.multiply::<K>();
                        flow.add::<K, R>(&mut acc, block * per_block + part, slot, scales, part, head);
                        slot = (slot + 1) % SLOTS;
                    }
                }
                self.store(panel, acc);
            }
        }
    }

    /// Puts a panel's sums in their place.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn store<const R: usize>(&self, panel: usize, acc: [__m512; R]) {
        // Sums stay in registers only while every index into them is known.
        let mut values = [[0.0; PANEL]; R];
        for r in 0..R {
            // SAFETY: as the caller says; the row is a vector long.
            unsafe { _mm512_storeu_ps(values[r].as_mut_ptr(), acc[r]) };
        }
        self.place(panel, &values);
    }

    #[inline(never)]
    fn place(&self, panel: usize, values: &[[f32; PANEL]]) {
        let first = panel * PANEL;
        let len = PANEL.min(self.part.w.rows - first);
        for (row, values) in self.rows.clone().zip(values) {
            self.part.store(row, first, &values[..len]);
        }
    }
}

/// A group of a panel, and its slot.
struct Cursor {
    left: usize,
    group: usize,
    slot: usize,
}

impl Cursor {
    /// Before the first group of so many panels.
    fn new(panels: usize) -> Cursor {
        Cursor {
            left: panels,
            group: 0,
            slot: 0,
        }
    }

    /// Goes on by a group; returns group and slot where it was, unless that is past the last panel.
    #[inline(always)]
    fn step(&mut self, per_row: usize) -> Option<(usize, usize)> {
        if self.left == 0 {
            return None;
        }
        let here = (self.group, self.slot);
        self.slot = (self.slot + 1) % SLOTS;
        self.group += 1;
        if self.group == per_row {
            (self.group, self.left) = (0, self.left - 1);
        }
        Some(here)
    }
}

/// Groups on their way through unpacking, tiles and sums.
struct Flow<'a> {
    t: Vnni,
    /// Configured for the rows and the format.
    tiles: Tiles,
    per_row: usize,
    /// Bytes of scales before the codes of each panel.
    scales_bytes: usize,
    x: Block<'a>,
    slots: *mut Slots,
    /// Of the next group to unpack.
    codes: *const u8,
    unpacked: Cursor,
    multiplied: Cursor,
}

impl Flow<'_> {
    /// Puts the codes of the next group into its slot.
    ///
    /// # Safety
    /// `slots` is writable, and the cursor's panels are there.
    #[inline(always)]
    unsafe fn unpack<K: Kind>(&mut self) {
        let Some((_, slot)) = self.unpacked.step(self.per_row) else {
            return;
        };
        let layout = K::LAYOUT;
        // SAFETY: the panel has such a group; the slot has room for eight lines.
        unsafe {
            let at = self.codes;
            // Panels follow one another; after the last group this points past all of them, and is not used.
            let gap = if self.unpacked.group == 0 {
                self.scales_bytes
            } else {
                0
            };
            self.codes = at.wrapping_add(layout.group_codes() + gap);
            for line in 0..layout.planes.lines() {
                self.t.prefetch(at.wrapping_add(AHEAD + line * LINE));
            }
            let out = (&raw mut (*self.slots).codes[slot]).cast::<u8>();
            for (i, codes) in codes::<Vnni, K>(self.t, at).into_iter().enumerate() {
                _mm512_store_si512(out.add(i * LINE).cast(), codes);
            }
        }
    }

    /// The products of the next group's codes with the activations.
    ///
    /// # Safety
    /// The tiles have the shapes of the format and of the rows; the group was unpacked.
    #[inline(always)]
    unsafe fn multiply<K: Kind>(&mut self) {
        let _configured = &self.tiles;
        let Some((group, slot)) = self.multiplied.step(self.per_row) else {
            return;
        };
        // SAFETY: x has such a group; the slot has room for the tiles.
        unsafe {
            let x8 = self.x.codes.as_ptr().add(group).cast::<i8>();
            let codes = (&raw const (*self.slots).codes[slot]).cast::<u8>();
            let sums = (&raw mut (*self.slots).sums[slot * (GROUP / K::LAYOUT.group)]).cast::<i32>();
            tile_zero!("tmm0");
            tile_load!("tmm4", x8, GROUP);
            tile_load!("tmm6", codes, LINE);
            tile_dpbsud!("tmm0", "tmm4", "tmm6");
            if K::LAYOUT.group < GROUP {
                tile_zero!("tmm1");
                tile_load!("tmm5", x8.add(K::LAYOUT.group), GROUP);
                tile_load!("tmm7", codes.add(FOURS / 2 * LINE), LINE);
                tile_dpbsud!("tmm1", "tmm5", "tmm7");
                tile_store!("tmm0", sums, LINE);
                tile_store!("tmm1", sums.add(TILE_ROWS * PANEL), LINE);
            } else {
                tile_store!("tmm0", sums, LINE);
            }
        }
    }

    /// Adds the products of a group.
    ///
    /// # Safety
    /// The group was multiplied; `scales` are those of the block that has it as its `part`.
    #[inline(always)]
    unsafe fn add<K: Kind, const R: usize>(
        &self,
        acc: &mut [__m512; R],
        group: usize,
        slot: usize,
        scales: *const u8,
        part: usize,
        head: (__m512, __m512),
    ) {
        let halves = GROUP / K::LAYOUT.group;
        // SAFETY: the processor has AVX-512.
        let offset = unsafe { _mm512_set1_ps(K::LAYOUT.offset as f32) };
        for half in 0..halves {
            // SAFETY: the processor has AVX-512; x has such a group, and the caller's promises.
            unsafe {
                let (scale, min) = scale_and_min::<Vnni, K>(self.t, scales, 0, halves * part + half, head);
                let floats = self.x.floats.as_ptr().add(group).cast::<f32>();
                // Sums of the group, or of this half of it.
                let line = if halves == 1 { 1 } else { 3 + 2 * half };
                let scaled_sums = floats.add(line * TILE_ROWS);
                let minus_sums = scaled_sums.add(TILE_ROWS);
                let sums = (&raw const (*self.slots).sums[slot * halves + half]).cast::<i32>();
                for r in 0..R {
                    let mut dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(r * PANEL).cast()));
                    if K::LAYOUT.offset > 0 {
                        // Less the offset for each activation: exact, as all are whole numbers far below 2^24.
                        dot = _mm512_fmadd_ps(offset, _mm512_set1_ps(*minus_sums.add(r)), dot);
                    }
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*floats.add(r)));
                    acc[r] = _mm512_fmadd_ps(dot, scale, acc[r]);
                    if K::LAYOUT.mins {
                        acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(*scaled_sums.add(r)), acc[r]);
                    }
                }
            }
        }
    }
}
