//! Packed codes and scales, taken into registers: what every kernel on packed weights begins with.
//!
//! Invariant: a strip is the rows of a panel that a vector holds, all 16 or one half; codes and scales are those of
//! `unpack_row`, so `value = scale * (code - offset) + minimum`.

use super::layout::{FOURS, LINE, Layout, PANEL, Planes, Scales};
use crate::input::{Group, Super, Unit};
use crate::quant::Format;
use crate::simd::Simd;
use crate::simd::int8::{F32, I32, Int8};

/// A format, known when a kernel is compiled.
pub(crate) trait Kind: Send + Sync {
    const LAYOUT: Layout;
    /// How the activations that meet it in int8 share scales.
    type Unit: Unit;
}

macro_rules! kinds {
    ($($unit:ident: $($name:ident $format:ident)*;)*) => { $( $(
        pub(crate) struct $name;
        impl Kind for $name {
            const LAYOUT: Layout = match Layout::of(Format::$format) {
                Some(layout) => {
                    assert!(layout.block_cols() == $unit::COLS);
                    layout
                }
                None => unreachable!(),
            };
            type Unit = $unit;
        }
    )* )* };
}

kinds! {
    Group: Q8_0 Q8_0 Q4_0 Q4_0 Q4_1 Q4_1 Q5_0 Q5_0 Q5_1 Q5_1 IQ4NL IQ4_NL MXFP4 MXFP4;
    Super: Q2K Q2_K Q3K Q3_K Q4K Q4_K Q5K Q5_K Q6K Q6_K IQ4XS IQ4_XS;
}

/// Calls `$body` with `$K` standing for the kind of a packed format; plain formats do nothing.
macro_rules! with_kind {
    ($format:expr, $K:ident => $body:expr) => {
        $crate::packed::registers::with_kind!(@ $format, $K => $body,
            Q8_0 Q8_0, Q4_0 Q4_0, Q4_1 Q4_1, Q5_0 Q5_0, Q5_1 Q5_1, Q2_K Q2K, Q3_K Q3K, Q4_K Q4K, Q5_K Q5K, Q6_K Q6K,
            IQ4_NL IQ4NL, IQ4_XS IQ4XS, MXFP4 MXFP4)
    };
    (@ $format:expr, $K:ident => $body:expr, $($name:ident $kind:ident),*) => {
        match $format {
            $crate::quant::Format::F32 | $crate::quant::Format::F16 | $crate::quant::Format::BF16 => (),
            $($crate::quant::Format::$name => {
                type $K = $crate::packed::registers::$kind;
                $body
            })*
        }
    };
}
pub(crate) use with_kind;

/// Where a strip's scales and codes begin. The codes of its next group are `group_codes` further.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    pub scales: *const u8,
    pub codes: *const u8,
}

impl Strip {
    pub(crate) const NONE: Strip = Strip {
        scales: std::ptr::null(),
        codes: std::ptr::null(),
    };

    /// Strip `half` of a panel, whose bytes are a whole panel of `cols` columns.
    #[inline(always)]
    pub(crate) fn new<T: Int8>(layout: Layout, panel: &[u8], cols: usize, half: usize) -> Strip {
        debug_assert!(Some(panel.len()) == layout.panel_bytes(cols));
        let (scales, codes) = panel.split_at(layout.codes_at(cols));
        Strip {
            scales: scales.as_ptr(),
            codes: codes.as_ptr().wrapping_add(4 * half * T::Floats::LANES),
        }
    }
}

/// The 32 codes of each row of a strip: eight fours.
///
/// # Safety
/// `codes` points to the strip's part of a group's lines.
#[inline(always)]
pub(crate) unsafe fn codes<T: Int8, K: Kind>(t: T, codes: *const u8) -> [T::Codes; FOURS] {
    let mut lines = [t.splat(0); FOURS];
    for (i, line) in lines.iter_mut().enumerate().take(K::LAYOUT.planes.lines()) {
        // SAFETY: the group has so many lines, as the caller says.
        *line = unsafe { t.codes_at(codes.add(i * LINE)) };
    }
    let mut codes = lines;
    match K::LAYOUT.planes {
        Planes::Bytes => return codes,
        Planes::Nibbles => nibbles(t, &lines, &mut codes),
        Planes::NibblesBits => {
            nibbles(t, &lines, &mut codes);
            let bits = spread(t, lines[4], 0x1010_1010);
            join(t, &mut codes, &bits);
        }
        Planes::NibblesPairs => {
            nibbles(t, &lines, &mut codes);
            let high = t.splat(0x3030_3030);
            let [a, b] = [lines[4], lines[5]];
            let pairs = [
                t.shl::<4>(a),
                t.shl::<2>(a),
                a,
                t.shr::<2>(a),
                t.shl::<4>(b),
                t.shl::<2>(b),
                b,
                t.shr::<2>(b),
            ];
            for (code, pair) in codes.iter_mut().zip(pairs) {
                *code = t.or(*code, t.and(pair, high));
            }
        }
        Planes::Pairs => pairs(t, &lines, &mut codes),
        Planes::PairsBits => {
            pairs(t, &lines, &mut codes);
            let bits = spread(t, lines[2], 0x0404_0404);
            join(t, &mut codes, &bits);
        }
    }
    if let Some(table) = K::LAYOUT.table {
        for code in &mut codes {
            *code = t.lookup(table, *code);
        }
    }
    codes
}

#[inline(always)]
fn nibbles<T: Int8>(t: T, lines: &[T::Codes; FOURS], codes: &mut [T::Codes; FOURS]) {
    let low = t.splat(0x0f0f_0f0f);
    for i in 0..4 {
        codes[i] = t.and(lines[i], low);
        codes[i + 4] = t.and(t.shr::<4>(lines[i]), low);
    }
}

#[inline(always)]
fn pairs<T: Int8>(t: T, lines: &[T::Codes; FOURS], codes: &mut [T::Codes; FOURS]) {
    let low = t.splat(0x0303_0303);
    let [a, b] = [lines[0], lines[1]];
    let shifted = [
        a,
        t.shr::<2>(a),
        t.shr::<4>(a),
        t.shr::<6>(a),
        b,
        t.shr::<2>(b),
        t.shr::<4>(b),
        t.shr::<6>(b),
    ];
    for (code, shifted) in codes.iter_mut().zip(shifted) {
        *code = t.and(shifted, low);
    }
}

/// Bit `b` of each byte, moved to where `mask` has one, in entry `b`.
#[inline(always)]
fn spread<T: Int8>(t: T, bits: T::Codes, mask: u32) -> [T::Codes; FOURS] {
    let mask_codes = t.splat(mask);
    let shifted = if mask == 0x1010_1010 {
        [
            t.shl::<4>(bits),
            t.shl::<3>(bits),
            t.shl::<2>(bits),
            t.shl::<1>(bits),
            bits,
            t.shr::<1>(bits),
            t.shr::<2>(bits),
            t.shr::<3>(bits),
        ]
    } else {
        debug_assert!(mask == 0x0404_0404);
        [
            t.shl::<2>(bits),
            t.shl::<1>(bits),
            bits,
            t.shr::<1>(bits),
            t.shr::<2>(bits),
            t.shr::<3>(bits),
            t.shr::<4>(bits),
            t.shr::<5>(bits),
        ]
    };
    let mut out = shifted;
    for out in &mut out {
        *out = t.and(*out, mask_codes);
    }
    out
}

#[inline(always)]
fn join<T: Int8>(t: T, codes: &mut [T::Codes; FOURS], more: &[T::Codes; FOURS]) {
    for (code, more) in codes.iter_mut().zip(more) {
        *code = t.or(*code, *more);
    }
}

/// What the scales of a block share: d and -dmin of each row; zeros where a format has none.
///
/// # Safety
/// `block` points to the scales of a block of a panel.
#[inline(always)]
pub(crate) unsafe fn head<T: Int8, K: Kind>(t: T, block: *const u8, half: usize) -> (F32<T>, F32<T>) {
    let s = t.floats();
    let (zero, lane) = (s.splat(0.0), half * T::Floats::LANES);
    if matches!(K::LAYOUT.scales, Scales::Half | Scales::Exponent) {
        return (zero, zero);
    }
    // SAFETY: the block begins with f16 for 16 rows, and has as many more where there are minimums.
    unsafe {
        let d = s.halves_at(block.add(2 * lane).cast());
        let dmin = if K::LAYOUT.mins {
            s.sub(zero, s.halves_at(block.add(2 * (PANEL + lane)).cast()))
        } else {
            zero
        };
        (d, dmin)
    }
}

/// Scale and minimum of group `group` of a block (counted by the format's own groups, of 16 or 32 columns).
///
/// # Safety
/// As `head`; the block has such a group.
#[inline(always)]
pub(crate) unsafe fn scale_and_min<T: Int8, K: Kind>(
    t: T,
    block: *const u8,
    half: usize,
    group: usize,
    head: (F32<T>, F32<T>),
) -> (F32<T>, F32<T>) {
    let s = t.floats();
    let (zero, lane) = (s.splat(0.0), half * T::Floats::LANES);
    // SAFETY: the block has these bytes, by its layout.
    unsafe {
        match K::LAYOUT.scales {
            Scales::Half => {
                let scale = s.halves_at(block.add(2 * lane).cast());
                let min = if K::LAYOUT.mins {
                    s.halves_at(block.add(2 * (PANEL + lane)).cast())
                } else {
                    zero
                };
                (scale, min)
            }
            Scales::Exponent => (power(t, t.u8s_at(block.add(lane))), zero),
            Scales::Super => {
                let at = block.add(K::LAYOUT.scales_at() + group * PANEL + lane);
                let scale = if K::LAYOUT.signed {
                    t.i8s_at(at)
                } else {
                    t.u8s_at(at)
                };
                let scale = s.mul(head.0, s.to_f32(scale));
                if !K::LAYOUT.mins {
                    return (scale, zero);
                }
                let min = t.u8s_at(block.add(K::LAYOUT.mins_at() + group * PANEL + lane));
                (scale, s.mul(head.1, s.to_f32(min)))
            }
        }
    }
}

/// The whole number that is the scale of group `group` of a block of 256 columns.
///
/// # Safety
/// As `head`; the block has such a group.
#[inline(always)]
pub(crate) unsafe fn scale<T: Int8, K: Kind>(t: T, block: *const u8, half: usize, group: usize) -> I32<T> {
    let lane = half * T::Floats::LANES;
    // SAFETY: the block has these bytes, by its layout.
    unsafe {
        let at = block.add(K::LAYOUT.scales_at() + group * PANEL + lane);
        if K::LAYOUT.signed {
            t.i8s_at(at)
        } else {
            t.u8s_at(at)
        }
    }
}

/// The scales of groups `2 * pair` and `2 * pair + 1`, in the low and the high word of each lane.
///
/// # Safety
/// As `scale`, for both groups.
#[inline(always)]
pub(crate) unsafe fn pair_of_scales<T: Int8, K: Kind>(
    t: T,
    block: *const u8,
    half: usize,
    pair: usize,
) -> I32<T> {
    // SAFETY: as the caller says.
    unsafe {
        words(
            t,
            scale::<T, K>(t, block, half, 2 * pair),
            scale::<T, K>(t, block, half, 2 * pair + 1),
        )
    }
}

/// As `pair_of_scales`, the whole numbers that minimums are made of.
///
/// # Safety
/// As `scale`, for both groups of a format that has minimums.
#[inline(always)]
pub(crate) unsafe fn pair_of_mins<T: Int8, K: Kind>(
    t: T,
    block: *const u8,
    half: usize,
    pair: usize,
) -> I32<T> {
    let at = K::LAYOUT.mins_at() + 2 * pair * PANEL + half * T::Floats::LANES;
    // SAFETY: the block has these bytes, by its layout.
    unsafe { words(t, t.u8s_at(block.add(at)), t.u8s_at(block.add(at + PANEL))) }
}

/// Two numbers of 16 bits in each lane.
#[inline(always)]
fn words<T: Int8>(t: T, low: I32<T>, high: I32<T>) -> I32<T> {
    let s = t.floats();
    s.or(s.and(low, s.splat_i32(0xffff)), s.shl(high, 16))
}

/// `2^(e - 128)`, as two factors, since the lowest are subnormal.
#[inline(always)]
fn power<T: Int8>(t: T, e: I32<T>) -> F32<T> {
    let s = t.floats();
    // 2^(ceil(e / 2) - 64) * 2^(floor(e / 2) - 64), both normal.
    let low = s.shr(e, 1);
    let high = s.shr(s.add_i32(e, s.splat_i32(1)), 1);
    let float = |e: I32<T>| s.float_of(s.shl(s.add_i32(e, s.splat_i32(127 - 64)), 23));
    s.mul(float(low), float(high))
}
