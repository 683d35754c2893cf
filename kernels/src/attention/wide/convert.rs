//! Between rows of f32 and tiles of bf16: queries and keys in two parts, values turned over.
//!
//! Invariant: what lies beyond a head's values or the positions in use is zero.

use std::arch::x86_64::*;

use super::super::value::{Rows, Value};
use super::Line;
use crate::simd::Avx512;

/// Values of a tile's row, and lines of a tile.
pub(super) const STEP: usize = 32;
pub(super) const TILE: usize = 16;

/// # Safety
/// The processor has AVX-512 F and BW; so for all below, with BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn read(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn write(line: &mut Line, v: __m512i) {
    // SAFETY: a line is 64 bytes.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), v) }
}

/// Turns 16 x 16 numbers of 32 bits over: number `j` of vector `i` becomes number `i` of vector `j`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn turned(v: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = v;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..4 {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // Quarter `q` of vector `4 i + j` of b holds numbers `4 i..4 i + 4` of column `4 q + j`.
    let mut out = b;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0x88>(b[8 + j], b[12 + j]);
        let low_odd = _mm512_shuffle_i32x4::<0xdd>(b[j], b[4 + j]);
        let high_odd = _mm512_shuffle_i32x4::<0xdd>(b[8 + j], b[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(low, high);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(low_odd, high_odd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(low_odd, high_odd);
    }
    out
}

/// 32 values as the sum of two vectors of bf16: the first 8 bits of each, and the nearest to the rest. Exact for what
/// came from f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split([x, y]: [__m512; 2]) -> [__m512i; 2] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let [x, y] = [_mm512_castps_si512(x), _mm512_castps_si512(y)];
    let [x_high, y_high] = [_mm512_and_si512(x, upper), _mm512_and_si512(y, upper)];
    let rest = |v, high| _mm512_sub_ps(_mm512_castsi512_ps(v), _mm512_castsi512_ps(high));
    let (x_rest, y_rest) = (rest(x, x_high), rest(y, y_high));
    // The odd words of x, then those of y.
    let high = _mm512_permutex2var_epi16(x, odd_words(), y);
    [high, bits(_mm512_cvtne2ps_pbh(y_rest, x_rest))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn odd_words() -> __m512i {
    const ODD: [u16; 32] = {
        let mut odd = [0; 32];
        let mut i = 0;
        while i < 32 {
            odd[i] = 2 * i as u16 + 1;
            i += 1;
        }
        odd
    };
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) }
}

/// Pairs `(x[i], y[i])` of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn pairs(x: __m512, y: __m512) -> __m512i {
    const PAIRS: [u16; 32] = {
        let mut pairs = [0; 32];
        let mut i = 0;
        while i < 32 {
            pairs[i] = (i as u16 / 2) + 16 * (i as u16 % 2);
            i += 1;
        }
        pairs
    };
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(PAIRS.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(y, x)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits(v: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute(v) }
}

/// Two tiles (the high parts, the low parts) of one step of 16 queries: B operands, with a query in each column. `q`
/// says where a query is, `None` for columns without.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn queries(
    s: Avx512,
    q: [Option<&[f32]>; TILE],
    step: usize,
    high: &mut [Line],
    low: &mut [Line],
) {
    let mut parts = [[_mm512_setzero_si512(); TILE]; 2];
    for (i, q) in q.iter().enumerate() {
        let Some(q) = q else { continue };
        let rows = Rows {
            values: q,
            scales: &[],
            dim: q.len(),
        };
        // SAFETY: this is a row.
        let [high, low] = unsafe { split([rows.load(s, 0, step * STEP), rows.load(s, 0, step * STEP + 16)]) };
        (parts[0][i], parts[1][i]) = (high, low);
    }
    for (part, to) in parts.into_iter().zip([high, low]) {
        for (v, line) in turned(part).into_iter().zip(to) {
            write(line, v);
        }
    }
}

/// Keys of a block as two tiles (high parts before low parts) of each step, for each 16 positions: A operands. `to`:
/// `[2][2][steps]` tiles. Of the rows, `count` are in use.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn keys<T: Value>(s: Avx512, rows: Rows<'_, T>, count: usize, steps: usize, to: &mut [Line]) {
    rows.check(count);
    let zero = _mm512_setzero_si512();
    for row in 0..2 * TILE {
        let tiles = &mut to[row / TILE * 2 * steps * TILE + row % TILE..];
        for step in 0..steps {
            let mut parts = [zero; 2];
            if row < count {
                // SAFETY: rows were checked.
                parts = unsafe {
                    split([
                        rows.load(s, row, step * STEP),
                        rows.load(s, row, step * STEP + 16),
                    ])
                };
            }
            write(&mut tiles[step * TILE], parts[0]);
            write(&mut tiles[(steps + step) * TILE], parts[1]);
        }
    }
}

/// Values of a block turned over, a tile for each 16 values of the head: A operands whose rows are the head's values and
/// whose columns are positions. Tile `i` goes to `to[i * stride..]`. Of the rows, `count` are in use.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn turn_values<T: Value>(
    s: Avx512,
    rows: Rows<'_, T>,
    count: usize,
    tiles: usize,
    stride: usize,
    to: &mut [Line],
) {
    rows.check(count);
    for tile in 0..tiles {
        let mut block = [_mm512_setzero_si512(); TILE];
        for (i, pair) in block.iter_mut().enumerate() {
            let mut two = [_mm512_setzero_ps(); 2];
            for (j, value) in two.iter_mut().enumerate() {
                if 2 * i + j < count {
                    // SAFETY: rows were checked.
                    *value = unsafe { rows.load(s, 2 * i + j, tile * TILE) };
                }
            }
            *pair = pairs(two[0], two[1]);
        }
        for (v, line) in turned(block).into_iter().zip(&mut to[tile * stride..]) {
            write(line, v);
        }
    }
}

/// Sixteen sums of one tile (a value of the head in each line, a query in each column) times `scale`, turned back into
/// rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn rows_of(tile: &[Line], scale: __m512) -> [__m512; TILE] {
    let mut block = [_mm512_setzero_si512(); TILE];
    for (v, line) in block.iter_mut().zip(tile) {
        let value = _mm512_mul_ps(_mm512_castsi512_ps(read(line)), scale);
        // Adding zero makes one zero of two: a tile's zero may have either sign.
        *v = _mm512_castps_si512(_mm512_add_ps(value, _mm512_setzero_ps()));
    }
    let mut out = [_mm512_setzero_ps(); TILE];
    for (out, v) in out.iter_mut().zip(turned(block)) {
        *out = _mm512_castsi512_ps(v);
    }
    out
}
