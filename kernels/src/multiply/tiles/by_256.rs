//! Formats with blocks of 256 columns, with many generated tokens.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8::by_256`, so that a row's results do
//! not tell which of the two made them.
//!
//! Scales go into the codes, so that the tiles add up a whole block: a code times its scale is kept in two bytes, a low
//! and a high one, each multiplied by tiles of its own. Codes of 64 columns are unpacked some tiles ahead of their use,
//! since what was just stored takes long to become a tile; the vectors add up the block before the one in the tiles.
//! The three take turns after every few vectors: a tile that waits for a free register lets nothing behind it begin.

#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{AHEAD, Job, Run};
use crate::amx::{Amx, Shapes, Tiles, tile_dpbssd, tile_dpbsud, tile_load, tile_store, tile_zero};
use crate::input::{Super, SuperTile, TILE_COLS, TILE_ROWS};
use crate::packed::layout::{FOURS, GROUP, LINE, Layout, PANEL, SUPER};
use crate::packed::registers::{Kind, Strip, codes, head, pair_of_mins};
use crate::simd::Vnni;
use crate::simd::int8::Int8;

/// Tiles of codes of a block.
const CHUNKS: usize = SUPER / TILE_COLS;
/// Chunks that are unpacked before the tiles begin.
const LEAD: usize = CHUNKS - 1;
const _: () = assert!(TILE_COLS == 2 * GROUP);
/// Lines of a chunk's codes.
const CHUNK_LINES: usize = TILE_COLS / 4;

/// One byte of each of a chunk's products of code and scale, as a tile.
type Plane = [[u8; LINE]; CHUNK_LINES];
/// Sums of products with one plane.
type Sums = [[i32; PANEL]; TILE_ROWS];

/// Low and high planes of the chunks of a block, and sums of two blocks with each.
#[repr(C, align(64))]
struct Slots {
    codes: [[Plane; 2]; CHUNKS],
    sums: [[Sums; 2]; 2],
}

/// By how many bits the high plane is above the low one.
const fn high_bits(layout: Layout) -> u32 {
    if layout.signed { 8 } else { 3 }
}

/// A block of a panel.
#[derive(Clone, Copy)]
struct Place {
    scales: *const u8,
    codes: *const u8,
}

impl Run for Super {
    #[inline]
    unsafe fn run<K: Kind, const R: usize>(job: &Job<'_>, block: usize, amx: Amx) {
        // SAFETY: as the caller says.
        unsafe { run::<K, R>(job, job.part.input.tiles_by_256(block), amx) }
    }
}

/// At most `R` rows with all panels of the job.
///
/// # Safety
/// The processor has what the token proves.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run<K: Kind, const R: usize>(job: &Job<'_>, x: &[SuperTile], amx: Amx) {
    let count = job.rows.len();
    assert!(count >= 1 && count <= R && R <= TILE_ROWS);
    let w = job.part.w;
    let per_row = w.cols / SUPER;
    assert!(x.len() == per_row);
    if per_row == 0 {
        return;
    }
    let (sums, products, codes) = ((count, 4 * PANEL), (count, TILE_COLS), (CHUNK_LINES, LINE));
    let shapes = Shapes::new([sums, sums, products, codes]);
    let mut slots = std::mem::MaybeUninit::<Slots>::uninit();
    let mut flow = Flow {
        t: amx.vnni(),
        tiles: Tiles::new(amx, &shapes),
        slots: slots.as_mut_ptr(),
    };
    let place = |panel: usize, block: usize| {
        let strip = Strip::new::<Vnni>(K::LAYOUT, w.panel(panel), w.cols, 0);
        Place {
            scales: strip.scales.wrapping_add(block * K::LAYOUT.block_scales()),
            codes: strip
                .codes
                .wrapping_add(block * (SUPER / GROUP) * K::LAYOUT.group_codes()),
        }
    };
    // SAFETY: places are those of blocks that are there. What the tiles read was unpacked before, and what is added up
    // was multiplied before, but for rows that the tiles do not have, whose sums are zeros and go nowhere.
    unsafe {
        std::ptr::write_bytes(&raw mut (*flow.slots).sums, 0, 1);
        let mut here = place(job.panels.start, 0);
        (0..LEAD).for_each(|chunk| flow.unpack::<K>(here, chunk, &mut Nobody));
        let mut parity = 0;
        // The panel whose blocks are being added up.
        let mut acc = [_mm512_setzero_ps(); R];
        let mut before: Option<(Place, usize)> = None;
        for panel in job.panels.clone() {
            for block in 0..per_row {
                let next = match (block + 1 < per_row, panel + 1 < job.panels.end) {
                    (true, _) => Some(place(panel, block + 1)),
                    (false, true) => Some(place(panel + 1, 0)),
                    (false, false) => None,
                };
                let ended = before.is_some_and(|(_, last)| last + 1 == per_row);
                let ending = before.map(|(of, last)| Ending::new::<K>(flow.t, &x[last], of));
                flow.multiply::<K, R>(&x[block], here, next, parity, ending.as_ref(), &mut acc);
                if ended {
                    job.place(panel - 1, &acc);
                    acc = [_mm512_setzero_ps(); R];
                }
                before = Some((here, block));
                here = next.unwrap_or(here);
                parity = 1 - parity;
            }
        }
        if let Some((of, last)) = before {
            let ending = Ending::new::<K>(flow.t, &x[last], of);
            for r in 0..R {
                ending.add::<K>(flow.sums(1 - parity), r, &mut acc[r]);
            }
            job.place(job.panels.end - 1, &acc);
        }
    }
}

/// Blocks on their way through unpacking, tiles and sums.
struct Flow {
    t: Vnni,
    /// Configured for the rows.
    tiles: Tiles,
    slots: *mut Slots,
}

impl Flow {
    /// Sums of a block with both planes, those of `parity`.
    fn sums(&self, parity: usize) -> *mut Sums {
        // SAFETY: only an address inside the slots is taken.
        unsafe { (&raw mut (*self.slots).sums[parity]).cast() }
    }

    /// The products of a block, into the sums of `parity`, while the codes ahead are unpacked (the block's own last chunk,
    /// and all but the last of the next block) and the sums of the other parity are added up, to `acc`.
    ///
    /// # Safety
    /// The tiles have the shapes of the rows; all but the last chunk of the block are unpacked; all blocks are there, and the
    /// one that ends was multiplied.
    #[inline(always)]
    unsafe fn multiply<K: Kind, const R: usize>(
        &mut self,
        x: &SuperTile,
        here: Place,
        next: Option<Place>,
        parity: usize,
        ending: Option<&Ending<'_>>,
        acc: &mut [__m512; R],
    ) {
        let _configured = &self.tiles;
        // SAFETY: as the caller says; slots have room for the tiles.
        unsafe {
            tile_zero!("tmm0");
            tile_zero!("tmm1");
            for chunk in 0..CHUNKS {
                let planes = (&raw const (*self.slots).codes[chunk]).cast::<Plane>();
                let sums = self.sums(1 - parity);
                let mut others = Others::<K, R> {
                    x,
                    planes,
                    chunk,
                    ending,
                    sums,
                    acc: &mut *acc,
                    kind: PhantomData,
                };
                // The chunk that is `LEAD` ahead.
                let (of, ahead) = if chunk == 0 {
                    (Some(here), LEAD)
                } else {
                    (next, chunk - 1)
                };
                match of {
                    Some(of) => self.unpack::<K>(of, ahead, &mut others),
                    None => {
                        others.take::<0>();
                        others.take::<1>();
                        others.take::<2>();
                        others.take::<3>();
                    }
                }
            }
            let sums = self.sums(parity);
            tile_store!("tmm0", sums, LINE);
            tile_store!("tmm1", sums.add(1), LINE);
        }
    }

    /// Puts the codes of a chunk, times their scales, into its slot; in four turns, after each of which others have theirs.
    ///
    /// # Safety
    /// The block is there, and the slot not in use.
    #[inline(always)]
    unsafe fn unpack<K: Kind>(&mut self, block: Place, chunk: usize, others: &mut impl Turns) {
        // SAFETY: the caller's promises.
        unsafe {
            let planes = (&raw mut (*self.slots).codes[chunk]).cast::<u8>();
            let codes = self.codes::<K>(block, 2 * chunk);
            self.unpack_half::<K, 0>(block, 2 * chunk, &codes, planes);
            others.take::<0>();
            self.unpack_half::<K, 1>(block, 2 * chunk, &codes, planes);
            others.take::<1>();
            let planes = planes.add(FOURS * LINE);
            let codes = self.codes::<K>(block, 2 * chunk + 1);
            self.unpack_half::<K, 0>(block, 2 * chunk + 1, &codes, planes);
            others.take::<2>();
            self.unpack_half::<K, 1>(block, 2 * chunk + 1, &codes, planes);
            others.take::<3>();
        }
    }

    /// Codes of a group, while later ones are asked for.
    ///
    /// # Safety
    /// The block is there, and has the group.
    #[inline(always)]
    unsafe fn codes<K: Kind>(&self, block: Place, group: usize) -> [__m512i; FOURS] {
        // SAFETY: as the caller says.
        unsafe {
            let at = block.codes.add(group * K::LAYOUT.group_codes());
            for line in 0..K::LAYOUT.planes.lines() {
                self.t.prefetch(at.wrapping_add(AHEAD + line * LINE));
            }
            codes::<Vnni, K>(self.t, at)
        }
    }

    /// One half of a group: 16 columns, for which scales hold at least.
    ///
    /// # Safety
    /// The block is there, and has the group; `low` is where its codes go in the low plane.
    #[inline(always)]
    unsafe fn unpack_half<K: Kind, const HALF: usize>(
        &self,
        block: Place,
        group: usize,
        codes: &[__m512i; FOURS],
        low: *mut u8,
    ) {
        const HALF_FOURS: usize = FOURS / 2;
        // SAFETY: as the caller says; the high plane is behind the low one.
        unsafe {
            let scales = block.scales.add(K::LAYOUT.scales_at());
            let scale = (group * GROUP + HALF * GROUP / 2) / K::LAYOUT.group;
            let factors = Factors::new::<K>(self.t, scales.add(scale * PANEL));
            let high = low.add(size_of::<Plane>());
            for four in HALF * HALF_FOURS..(HALF + 1) * HALF_FOURS {
                let (l, h) = factors.times::<K>(codes[four]);
                _mm512_store_si512(low.add(four * LINE).cast(), l);
                _mm512_store_si512(high.add(four * LINE).cast(), h);
            }
        }
    }
}

/// What goes on beside unpacking. No closure, which would not have the processor's features.
trait Turns {
    /// # Safety
    /// The processor has what the token proves; `TURN` is below four, and those before it were taken.
    unsafe fn take<const TURN: usize>(&mut self);
}

/// Before there is anything to multiply.
struct Nobody;

impl Turns for Nobody {
    #[inline(always)]
    unsafe fn take<const TURN: usize>(&mut self) {}
}

/// Adds the products of a chunk to both tiles of sums, and some rows of the block before to theirs. Whoever makes it says
/// that the tiles have the shapes of the rows, that the chunk is unpacked, and that the sums of the block before are there.
struct Others<'a, K, const R: usize> {
    x: &'a SuperTile,
    planes: *const Plane,
    chunk: usize,
    ending: Option<&'a Ending<'a>>,
    sums: *const Sums,
    acc: &'a mut [__m512; R],
    kind: PhantomData<K>,
}

impl<K: Kind, const R: usize> Turns for Others<'_, K, R> {
    #[inline(always)]
    unsafe fn take<const TURN: usize>(&mut self) {
        const { assert!(R.is_multiple_of(CHUNKS) && R / CHUNKS <= 4) };
        // SAFETY: as its maker and the caller say.
        unsafe {
            match TURN {
                0 => {
                    tile_load!("tmm2", self.x.codes[self.chunk].as_ptr(), TILE_COLS);
                    tile_load!("tmm3", self.planes, LINE);
                }
                1 => tile_dpbsud!("tmm0", "tmm2", "tmm3"),
                // One tile for both planes: see `amx::block` on how many are in use.
                2 => tile_load!("tmm3", self.planes.add(1), LINE),
                _ if K::LAYOUT.signed => tile_dpbssd!("tmm1", "tmm2", "tmm3"),
                _ => tile_dpbsud!("tmm1", "tmm2", "tmm3"),
            }
            if let Some(ending) = self.ending
                && TURN < R / CHUNKS
            {
                let r = self.chunk * (R / CHUNKS) + TURN;
                ending.add::<K>(self.sums, r, &mut self.acc[r]);
            }
        }
    }
}

/// A block whose products are there, on its way into the sums of its panel.
struct Ending<'a> {
    x: &'a SuperTile,
    d: __m512,
    minus_dmin: __m512,
    /// Minimums of pairs of groups, as words.
    mins: [__m512i; SUPER / 32],
}

impl Ending<'_> {
    /// # Safety
    /// The processor has what the token proves; the block is there.
    #[inline(always)]
    unsafe fn new<K: Kind>(t: Vnni, x: &SuperTile, block: Place) -> Ending<'_> {
        // SAFETY: as the caller says; the block has so many pairs of groups.
        unsafe {
            let (d, minus_dmin) = head::<Vnni, K>(t, block.scales, 0);
            let mut mins = [_mm512_setzero_si512(); SUPER / 32];
            if K::LAYOUT.mins {
                for pair in 0..SUPER / K::LAYOUT.group / 2 {
                    mins[pair] = pair_of_mins::<Vnni, K>(t, block.scales, 0, pair);
                }
            }
            Ending {
                x,
                d,
                minus_dmin,
                mins,
            }
        }
    }

    /// Adds row `r` of the block's sums with both planes.
    ///
    /// # Safety
    /// The processor has AVX-512; `sums` has both, with such a row.
    #[inline(always)]
    unsafe fn add<K: Kind>(&self, sums: *const Sums, r: usize, acc: &mut __m512) {
        let layout = K::LAYOUT;
        // SAFETY: as the caller says.
        unsafe {
            let sums = sums.cast::<__m512i>();
            let (low, high) = (sums.add(r).read(), sums.add(TILE_ROWS + r).read());
            let dot = match high_bits(layout) {
                3 => _mm512_slli_epi32::<3>(high),
                _ => _mm512_slli_epi32::<8>(high),
            };
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(low, dot));
            let total = if layout.mins {
                let mut low = _mm512_setzero_si512();
                for pair in 0..SUPER / layout.group / 2 {
                    let of_x = if layout.group == GROUP {
                        self.x.sums_32[pair][r]
                    } else {
                        self.x.sums_16[pair][r]
                    };
                    low = _mm512_dpwssd_epi32(low, self.mins[pair], _mm512_set1_epi32(of_x));
                }
                _mm512_fmadd_ps(
                    dot,
                    self.d,
                    _mm512_mul_ps(_mm512_cvtepi32_ps(low), self.minus_dmin),
                )
            } else {
                _mm512_mul_ps(dot, self.d)
            };
            *acc = _mm512_fmadd_ps(total, _mm512_set1_ps(self.x.scales[r]), *acc);
        }
    }
}

/// What codes of a group are multiplied with, for each row of the panel. In words, as there are no products of bytes.
struct Factors {
    /// Scales without sign: their lowest three bits in both words. With sign: the scale in the first byte of each word.
    low: __m512i,
    /// Without sign: the upper three bits. With sign: the scale in the second byte.
    high: __m512i,
    /// With sign: the scale times the offset.
    offset: __m512i,
}

impl Factors {
    /// # Safety
    /// The processor has AVX-512 BW; `scales` is readable for a panel's scales of a group.
    #[inline(always)]
    unsafe fn new<K: Kind>(t: Vnni, scales: *const u8) -> Factors {
        // SAFETY: as the caller says.
        unsafe {
            let both = |v: __m512i| _mm512_or_si512(v, _mm512_slli_epi32::<16>(v));
            let bytes = both(t.u8s_at(scales));
            if !K::LAYOUT.signed {
                return Factors {
                    low: _mm512_and_si512(bytes, _mm512_set1_epi16(7)),
                    high: _mm512_srli_epi16::<3>(bytes),
                    offset: _mm512_setzero_si512(),
                };
            }
            let signed = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes));
            Factors {
                low: bytes,
                high: _mm512_slli_epi16::<8>(bytes),
                offset: _mm512_mullo_epi16(signed, _mm512_set1_epi16(K::LAYOUT.offset as i16)),
            }
        }
    }

    /// `(code - offset) * scale`, as `low + (high << high_bits)`.
    ///
    /// # Safety
    /// The processor has AVX-512 BW.
    #[inline(always)]
    unsafe fn times<K: Kind>(&self, codes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: as the caller says.
        unsafe {
            if !K::LAYOUT.signed {
                const { assert!(K::LAYOUT.signed || ((1 << K::LAYOUT.bits()) - 1) * 7 <= 255) };
                // No product of a code and three bits carries into the other byte of its word.
                return (
                    _mm512_mullo_epi16(codes, self.low),
                    _mm512_mullo_epi16(codes, self.high),
                );
            }
            const SECOND: __mmask64 = 0xaaaa_aaaa_aaaa_aaaa;
            // Products of the first and of the second byte of each word, in 16 bits.
            let first = _mm512_sub_epi16(_mm512_maddubs_epi16(codes, self.low), self.offset);
            let second = _mm512_sub_epi16(_mm512_maddubs_epi16(codes, self.high), self.offset);
            (
                _mm512_mask_mov_epi8(first, SECOND, _mm512_slli_epi16::<8>(second)),
                _mm512_mask_mov_epi8(_mm512_srli_epi16::<8>(first), SECOND, second),
            )
        }
    }
}
