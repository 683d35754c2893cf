//! Formats whose scales are for 32 columns, with many generated tokens.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8::by_32`, so that a row's results do
//! not tell which of the two made them.
//!
//! A tile instruction costs about the same for 32 columns as for 64, and a scale covers 32: so each product ends with
//! its group. Stored tiles take long to become readable: codes are unpacked some groups ahead of the tiles, and those
//! work some groups ahead of the vectors that add up the products, so that nobody waits.

use std::arch::x86_64::*;

use super::{AHEAD, Job, Run};
use crate::amx::{Amx, Shapes, Tiles, tile_dpbsud, tile_load, tile_store, tile_zero};
use crate::input::{Group, GroupTile, TILE_ROWS};
use crate::packed::layout::{FOURS, GROUP, LINE, PANEL};
use crate::packed::registers::{Kind, Strip, codes, scale_and_min};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// How many groups the tiles are ahead of the sums, and the unpacking of codes of the tiles.
const LEAD: usize = 3;
/// Groups that are under way.
const SLOTS: usize = 8;
const _: () = assert!(SLOTS > 2 * LEAD);

/// The codes of a group as a tile, and the sums of products.
#[repr(C, align(64))]
struct Slots {
    codes: [[u8; FOURS * LINE]; SLOTS],
    sums: [[[i32; PANEL]; TILE_ROWS]; SLOTS],
}

impl Run for Group {
    #[inline]
    unsafe fn run<K: Kind, const R: usize>(job: &Job<'_>, block: usize, amx: Amx) {
        // SAFETY: as the caller says.
        unsafe { run::<K, R>(job, job.part.input.tiles_by_32(block), amx) }
    }
}

/// At most `R` rows with all panels of the job.
///
/// # Safety
/// The processor has what the token proves.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run<K: Kind, const R: usize>(job: &Job<'_>, x: &[GroupTile], amx: Amx) {
    let count = job.rows.len();
    assert!(count >= 1 && count <= R && R <= TILE_ROWS);
    let (w, layout) = (job.part.w, K::LAYOUT);
    let per_row = w.cols / GROUP;
    assert!(x.len() == per_row);
    let (sums, products, codes) = ((count, 4 * PANEL), (count, GROUP), (FOURS, LINE));
    let shapes = Shapes::new([sums, products, codes]);
    let mut slots = std::mem::MaybeUninit::<Slots>::uninit();
    let first = Strip::new::<Vnni>(layout, w.panel(job.panels.start), w.cols, 0);
    let mut flow = Flow {
        t: amx.vnni(),
        tiles: Tiles::new(amx, &shapes),
        per_row,
        scales_bytes: first.codes as usize - first.scales as usize,
        x,
        slots: slots.as_mut_ptr(),
        codes: first.codes,
        unpacked: Cursor::new(job.panels.len()),
        multiplied: Cursor::new(job.panels.len()),
    };
    // SAFETY: cursors stay within the panels; slots are written `LEAD` groups before they are read, rows that the
    // tiles do not have are only read where the sums go nowhere.
    unsafe {
        std::ptr::write_bytes(&raw mut (*flow.slots).sums, 0, 1);
        (0..2 * LEAD).for_each(|_| flow.unpack::<K>());
        (0..LEAD).for_each(|_| flow.multiply());
        let mut slot = 0;
        for panel in job.panels.clone() {
            let strip = Strip::new::<Vnni>(layout, w.panel(panel), w.cols, 0);
            let mut acc = [_mm512_setzero_ps(); R];
            for group in 0..per_row {
                flow.unpack::<K>();
                flow.multiply();
                let scales = strip.scales.add(group * layout.block_scales());
                flow.add::<K, R>(&mut acc, group, slot, scales);
                slot = (slot + 1) % SLOTS;
            }
            // A copy: sums stay in registers only while nobody has their address.
            let sums = acc;
            job.place(panel, &sums);
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
    x: &'a [GroupTile],
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
    /// The tiles have the shapes of the rows; the group was unpacked.
    #[inline(always)]
    unsafe fn multiply(&mut self) {
        let _configured = &self.tiles;
        let Some((group, slot)) = self.multiplied.step(self.per_row) else {
            return;
        };
        // SAFETY: x has such a group; the slot has room for the tiles.
        unsafe {
            let x8 = (&raw const (*self.x.as_ptr().add(group)).codes).cast::<i8>();
            let codes = (&raw const (*self.slots).codes[slot]).cast::<u8>();
            let sums = (&raw mut (*self.slots).sums[slot]).cast::<i32>();
            tile_zero!("tmm0");
            tile_load!("tmm1", x8, GROUP);
            tile_load!("tmm2", codes, LINE);
            tile_dpbsud!("tmm0", "tmm1", "tmm2");
            tile_store!("tmm0", sums, LINE);
        }
    }

    /// Adds the products of a group.
    ///
    /// # Safety
    /// The group was multiplied; `scales` are its own.
    #[inline(always)]
    unsafe fn add<K: Kind, const R: usize>(
        &self,
        acc: &mut [__m512; R],
        group: usize,
        slot: usize,
        scales: *const u8,
    ) {
        // SAFETY: the processor has AVX-512; x has such a group, and the caller's promises.
        unsafe {
            let offset = _mm512_set1_ps(K::LAYOUT.offset as f32);
            let zero = _mm512_setzero_ps();
            let (scale, min) = scale_and_min::<Vnni, K>(self.t, scales, 0, 0, (zero, zero));
            let x = &*self.x.as_ptr().add(group);
            let sums = (&raw const (*self.slots).sums[slot]).cast::<i32>();
            for r in 0..R {
                let mut dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(r * PANEL).cast()));
                if K::LAYOUT.offset > 0 {
                    // Less the offset for each activation: exact, as all are whole numbers far below 2^24.
                    dot = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.minus_sums[r]), dot);
                }
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[r]));
                acc[r] = _mm512_fmadd_ps(dot, scale, acc[r]);
                if K::LAYOUT.mins {
                    acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(x.scaled_sums[r]), acc[r]);
                }
            }
        }
    }
}
