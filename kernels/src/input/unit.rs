//! Columns that share a scale in int8, and what products know of them beside their values.
//!
//! Invariant: `x = scale * q` with `scale = amax / 127` of the unit, and the sums are those of its `q`. What is not
//! finite makes the unit's scale NaN, so that it shows in the results.

use super::TILE_ROWS;
use crate::packed::layout::{GROUP, SUPER};
use crate::simd::Simd;

/// Columns of a row.
pub(crate) trait Unit: Copy + Default + Send + Sync {
    /// How many.
    const COLS: usize;
    /// The unit of `TILE_ROWS` rows, in the order in which tiles and the vectors behind them read it. Rows that a block
    /// of rows lacks hold anything.
    type Tile: Copy + Send + Sync;
    /// All zeros.
    const EMPTY: Self::Tile;

    /// Rounds `COLS` values to int8, into as many of `q`.
    fn new<S: Simd>(s: S, v: &[f32], q: &mut [i8]) -> Self;

    /// Puts the unit and its values in the places of `row`.
    ///
    /// # Safety
    /// `tile` is valid for writes, and no other thread uses the places of this row.
    unsafe fn place(&self, q: &[i8], tile: *mut Self::Tile, row: usize);
}

/// 32 columns.
#[repr(C, align(16))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Group {
    pub scale: f32,
    /// `scale` times the sum of all 32.
    pub scaled_sum: f32,
    /// The sum of all 32, negative.
    pub minus_sum: i32,
}

/// A group of `TILE_ROWS` rows. Tiles that begin amid a cache line load slowly.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct GroupTile {
    pub codes: [[i8; GROUP]; TILE_ROWS],
    pub scales: [f32; TILE_ROWS],
    pub scaled_sums: [f32; TILE_ROWS],
    pub minus_sums: [f32; TILE_ROWS],
}

impl Unit for Group {
    const COLS: usize = GROUP;
    type Tile = GroupTile;
    const EMPTY: GroupTile = GroupTile {
        codes: [[0; GROUP]; TILE_ROWS],
        scales: [0.0; TILE_ROWS],
        scaled_sums: [0.0; TILE_ROWS],
        minus_sums: [0.0; TILE_ROWS],
    };

    #[inline(always)]
    fn new<S: Simd>(s: S, v: &[f32], q: &mut [i8]) -> Group {
        let mut sums = [0.0; GROUP / SUMMED];
        let scale = round(s, &v[..GROUP], &mut q[..GROUP], &mut sums);
        let sum = sums[0] + sums[1];
        Group {
            scale,
            scaled_sum: scale * sum,
            minus_sum: -whole(sum),
        }
    }

    #[inline(always)]
    unsafe fn place(&self, q: &[i8], tile: *mut GroupTile, row: usize) {
        assert!(row < TILE_ROWS && q.len() == GROUP);
        // SAFETY: as the caller says; the row is one of the tile's.
        unsafe {
            (&raw mut (*tile).codes[row])
                .cast::<i8>()
                .copy_from_nonoverlapping(q.as_ptr(), GROUP);
            (&raw mut (*tile).scales[row]).write(self.scale);
            (&raw mut (*tile).scaled_sums[row]).write(self.scaled_sum);
            (&raw mut (*tile).minus_sums[row]).write(self.minus_sum as f32);
        }
    }
}

/// 256 columns. Sums are in pairs of 16 bits, as dot products of words take them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Super {
    /// Sums of 16 columns.
    pub sums_16: [i32; SUPER / 32],
    /// Sums of 32 columns.
    pub sums_32: [i32; SUPER / 64],
    pub scale: f32,
}

/// Columns of a tile of codes.
pub(crate) const TILE_COLS: usize = 64;

/// 256 columns of `TILE_ROWS` rows; numbers as in `Super`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct SuperTile {
    pub codes: [[[i8; TILE_COLS]; TILE_ROWS]; SUPER / TILE_COLS],
    pub scales: [f32; TILE_ROWS],
    pub sums_16: [[i32; TILE_ROWS]; SUPER / 32],
    pub sums_32: [[i32; TILE_ROWS]; SUPER / 64],
}

impl Unit for Super {
    const COLS: usize = SUPER;
    type Tile = SuperTile;
    const EMPTY: SuperTile = SuperTile {
        codes: [[[0; TILE_COLS]; TILE_ROWS]; SUPER / TILE_COLS],
        scales: [0.0; TILE_ROWS],
        sums_16: [[0; TILE_ROWS]; SUPER / 32],
        sums_32: [[0; TILE_ROWS]; SUPER / 64],
    };

    #[inline(always)]
    fn new<S: Simd>(s: S, v: &[f32], q: &mut [i8]) -> Super {
        let mut sums = [0.0; SUPER / SUMMED];
        let scale = round(s, &v[..SUPER], &mut q[..SUPER], &mut sums);
        let mut unit = Super {
            scale,
            ..Super::default()
        };
        let sums = sums.map(whole);
        for (pair, of) in unit.sums_16.iter_mut().zip(sums.as_chunks::<2>().0) {
            *pair = words(of[0], of[1]);
        }
        for (pair, of) in unit.sums_32.iter_mut().zip(sums.as_chunks::<4>().0) {
            *pair = words(of[0] + of[1], of[2] + of[3]);
        }
        unit
    }

    #[inline(always)]
    unsafe fn place(&self, q: &[i8], tile: *mut SuperTile, row: usize) {
        assert!(row < TILE_ROWS && q.len() == SUPER);
        // SAFETY: as the caller says; the row is one of the tile's.
        unsafe {
            for (part, q) in q.as_chunks::<TILE_COLS>().0.iter().enumerate() {
                (&raw mut (*tile).codes[part][row]).write(*q);
            }
            (&raw mut (*tile).scales[row]).write(self.scale);
            for (line, sums) in self.sums_16.into_iter().enumerate() {
                (&raw mut (*tile).sums_16[line][row]).write(sums);
            }
            for (line, sums) in self.sums_32.into_iter().enumerate() {
                (&raw mut (*tile).sums_32[line][row]).write(sums);
            }
        }
    }
}

/// Two sums, which are below 2^15, as words.
#[inline(always)]
fn words(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// A float that is a whole number below 2^22, by its lowest bits: many at once, unlike a cast, which looks at each. Anything for
/// what is no such number.
#[inline(always)]
fn whole(v: f32) -> i32 {
    const ONES: f32 = (1 << 23) as f32 * 1.5;
    (v + ONES).to_bits().wrapping_sub(ONES.to_bits()).cast_signed()
}

/// Columns whose sum `round` gives.
const SUMMED: usize = 16;

/// Rounds values to int8 with one scale, which is returned; `sums` are those of 16 columns each.
#[inline(always)]
fn round<S: Simd>(s: S, v: &[f32], q: &mut [i8], sums: &mut [f32]) -> f32 {
    let zero = s.splat(0.0);
    // Several chains, since one would wait for each comparison.
    let step = v.len().min(4 * S::LANES);
    let mut most = [zero; 4];
    for v in v.chunks_exact(step) {
        for (most, v) in most.iter_mut().zip(v.chunks_exact(S::LANES)) {
            let v = s.load(v);
            *most = s.max(s.max(v, s.sub(zero, v)), *most);
        }
    }
    let highest = s.highest(s.max(s.max(most[0], most[1]), s.max(most[2], most[3])));
    let (scale, factor) = (highest / 127.0, 127.0 / highest);
    let parts = v.chunks_exact(step).zip(q.chunks_exact_mut(step));
    for ((v, q), sums) in parts.zip(sums.chunks_mut(step / SUMMED)) {
        let mut vectors = [zero; 4];
        let lanes = v.chunks_exact(S::LANES).zip(q.chunks_exact_mut(S::LANES));
        for (whole, (v, q)) in vectors.iter_mut().zip(lanes) {
            *whole = if factor.is_finite() {
                s.round(s.mul(s.load(v), s.splat(factor)))
            } else {
                next_to_nothing(s, s.load(v), scale)
            };
            s.store_i8(q, s.to_i32(*whole));
        }
        // Small whole numbers: exact in any order.
        let of_vectors = s.sum4(vectors);
        for (sum, of) in sums.iter_mut().zip(of_vectors.chunks(SUMMED / S::LANES)) {
            *sum = of.iter().sum();
        }
    }
    // What is not finite made a sum so.
    scale + sums.iter().sum::<f32>() * 0.0
}

/// Values rounded with a scale that is too small for one over it: it may be subnormal, which is rounded far down, or zero.
#[inline(always)]
fn next_to_nothing<S: Simd>(s: S, v: S::F32, scale: f32) -> S::F32 {
    if scale > 0.0 {
        let whole = s.round(s.div(v, s.splat(scale)));
        let whole = s.max(s.min(whole, s.splat(127.0)), s.splat(-127.0));
        s.fma(v, s.splat(0.0), whole)
    } else {
        s.mul(v, s.splat(0.0))
    }
}
