//! Formats with blocks of 256 columns, with many generated tokens.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8::by_256`, so that a row's results do
//! not tell which of the two made them.
//!
//! Scales go into the codes, so that the tiles add up a whole block: a code times its scale is kept in two bytes, a low
//! and a high one, each multiplied by tiles of its own. Codes of 64 columns are unpacked some tiles ahead of their use,
//! since what was just stored takes long to become a tile; the vectors add up the block before the one in the tiles.

#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

use std::arch::x86_64::*;

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
    let shapes = Shapes::new([sums, sums, sums, sums, products, products, codes, codes]);
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
        (0..LEAD).for_each(|chunk| flow.unpack::<K>(here, chunk));
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
                flow.multiply::<K>(&x[block], here, next, parity);
                if let Some((of, last)) = before {
                    flow.add::<K, R>(&mut acc, &x[last], of, 1 - parity);
                    if last + 1 == per_row {
                        job.place(panel - 1, &acc);
                        acc = [_mm512_setzero_ps(); R];
                    }
                }
                before = Some((here, block));
                here = next.unwrap_or(here);
                parity = 1 - parity;
            }
        }
        if let Some((of, last)) = before {
            flow.add::<K, R>(&mut acc, &x[last], of, 1 - parity);
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
    /// The products of a block, into the sums of `parity`, while the codes ahead are unpacked: the block's own last
    /// chunk, and all but the last of the next block.
    ///
    /// # Safety
    /// The tiles have the shapes of the rows; all but the last chunk of the block are unpacked; both blocks are there.
    #[inline(always)]
    unsafe fn multiply<K: Kind>(&mut self, x: &SuperTile, here: Place, next: Option<Place>, parity: usize) {
        let _configured = &self.tiles;
        // SAFETY: as the caller says; slots have room for the tiles.
        unsafe {
            tile_zero!("tmm0");
            tile_zero!("tmm1");
            self.unpack::<K>(here, LEAD);
            self.chunk::<K>(x, 0);
            for ahead in 0..LEAD {
                if let Some(next) = next {
                    self.unpack::<K>(next, ahead);
                }
                self.chunk::<K>(x, ahead + 1);
            }
            let sums = (&raw mut (*self.slots).sums[parity]).cast::<Sums>();
            tile_store!("tmm0", sums, LINE);
            tile_store!("tmm1", sums.add(1), LINE);
        }
    }

    /// Adds the products of a chunk to both sums.
    ///
    /// # Safety
    /// The tiles have the shapes of the rows; the chunk is unpacked.
    #[inline(always)]
    unsafe fn chunk<K: Kind>(&self, x: &SuperTile, chunk: usize) {
        // SAFETY: as the caller says; slots have room for the tiles.
        unsafe {
            let planes = (&raw const (*self.slots).codes[chunk]).cast::<Plane>();
            tile_load!("tmm4", x.codes[chunk].as_ptr(), TILE_COLS);
            tile_load!("tmm6", planes, LINE);
            tile_load!("tmm7", planes.add(1), LINE);
            tile_dpbsud!("tmm0", "tmm4", "tmm6");
            if K::LAYOUT.signed {
                tile_dpbssd!("tmm1", "tmm4", "tmm7");
            } else {
                tile_dpbsud!("tmm1", "tmm4", "tmm7");
            }
        }
    }

    /// Puts the codes of a chunk, times their scales, into its slot.
    ///
    /// # Safety
    /// The block is there, and the slot not in use.
    #[inline(always)]
    unsafe fn unpack<K: Kind>(&mut self, block: Place, chunk: usize) {
        for half in 0..TILE_COLS / GROUP {
            let group = chunk * (TILE_COLS / GROUP) + half;
            // SAFETY: the block has such a group, and the chunk two of them.
            unsafe {
                let at = block.codes.add(group * K::LAYOUT.group_codes());
                for line in 0..K::LAYOUT.planes.lines() {
                    self.t.prefetch(at.wrapping_add(AHEAD + line * LINE));
                }
                let codes = codes::<Vnni, K>(self.t, at);
                let planes = (&raw mut (*self.slots).codes[chunk]).cast::<u8>();
                let low = planes.add(half * FOURS * LINE);
                let high = low.add(size_of::<Plane>());
                let scales = block.scales.add(K::LAYOUT.scales_at());
                let per_scale = K::LAYOUT.group / 4;
                for part in 0..GROUP / K::LAYOUT.group {
                    let scales = scales.add((group * (GROUP / K::LAYOUT.group) + part) * PANEL);
                    let factors = Factors::new::<K>(self.t, scales);
                    for four in part * per_scale..(part + 1) * per_scale {
                        let (l, h) = factors.times::<K>(codes[four]);
                        _mm512_store_si512(low.add(four * LINE).cast(), l);
                        _mm512_store_si512(high.add(four * LINE).cast(), h);
                    }
                }
            }
        }
    }

    /// Adds the sums of a block, those of `parity`.
    ///
    /// # Safety
    /// The block is there, and was multiplied.
    #[inline(always)]
    unsafe fn add<K: Kind, const R: usize>(
        &self,
        acc: &mut [__m512; R],
        x: &SuperTile,
        block: Place,
        parity: usize,
    ) {
        let layout = K::LAYOUT;
        let pairs = SUPER / layout.group / 2;
        // SAFETY: the processor has AVX-512; the block has so many pairs of groups.
        unsafe {
            let (d, minus_dmin) = head::<Vnni, K>(self.t, block.scales, 0);
            let mut mins = [_mm512_setzero_si512(); SUPER / 32];
            if layout.mins {
                for pair in 0..pairs {
                    mins[pair] = pair_of_mins::<Vnni, K>(self.t, block.scales, 0, pair);
                }
            }
            let sums = (&raw const (*self.slots).sums[parity]).cast::<__m512i>();
            for r in 0..R {
                let (low, high) = (sums.add(r).read(), sums.add(TILE_ROWS + r).read());
                let dot = match high_bits(layout) {
                    3 => _mm512_slli_epi32::<3>(high),
                    _ => _mm512_slli_epi32::<8>(high),
                };
                let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(low, dot));
                let total = if layout.mins {
                    let mut low = _mm512_setzero_si512();
                    for pair in 0..pairs {
                        let of_x = if layout.group == GROUP {
                            x.sums_32[pair][r]
                        } else {
                            x.sums_16[pair][r]
                        };
                        low = _mm512_dpwssd_epi32(low, mins[pair], _mm512_set1_epi32(of_x));
                    }
                    _mm512_fmadd_ps(dot, d, _mm512_mul_ps(_mm512_cvtepi32_ps(low), minus_dmin))
                } else {
                    _mm512_mul_ps(dot, d)
                };
                acc[r] = _mm512_fmadd_ps(total, _mm512_set1_ps(x.scales[r]), acc[r]);
            }
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
