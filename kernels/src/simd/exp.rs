//! The exponential function on vectors.
//!
//! Invariant: relative error under `2e-7` where the result is a normal float; below it, `2^-126` stands for anything
//! smaller, and above, about `2.4e38` for anything greater; not-a-number stays so.

use super::Simd;

/// Where the exponent of the result leaves that of normal floats.
const LOW: f32 = -87.336_54;
const HIGH: f32 = 88.37;
/// ln 2 in two parts, the first short enough for exact products with whole numbers.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Minimax polynomial of `(exp(r) - 1 - r) / r^2` on `|r| <= ln 2 / 2` (Cephes, `expf`), highest power first.
const POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    0.166_666_65,
    0.5,
];

#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let x = s.min(s.splat(HIGH), s.max(s.splat(LOW), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let power = s.shl(s.add_i32(s.to_i32(n), s.splat_i32(127)), 23);
    s.mul(p, s.float_of(power))
}
