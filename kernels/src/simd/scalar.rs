//! Vectors of eight floats in portable code: what every processor runs.
//!
//! Invariant: no intrinsics and no `mul_add`, which without the instruction is a slow library call.

use half::{bf16, f16};

use super::{Kernel, LANES_MAX, Simd};

/// The token of portable code.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 8;
type F = [f32; LANES];
type I = [i32; LANES];

/// `array::from_fn` that is always inlined, so that its closure is too.
#[inline(always)]
fn lanes<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; LANES] {
    let mut v = [T::default(); LANES];
    for (i, v) in v.iter_mut().enumerate() {
        *v = f(i);
    }
    v
}

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    lanes(|i| f(a[i], b[i]))
}

#[inline(always)]
fn zip_i32(a: I, b: I, f: impl Fn(i32, i32) -> i32) -> I {
    lanes(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const TOKENS: usize = 2;
    type F32 = F;
    type I32 = I;

    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> F {
        // SAFETY: the caller says that so many floats are readable.
        unsafe { from.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        lanes(|i| from[..LANES][i])
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> F {
        let mut v = [0.0; LANES];
        v[..from.len()].copy_from_slice(from);
        v
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: F) {
        to[..LANES].copy_from_slice(&v);
    }
    #[inline(always)]
    fn store_some(self, to: &mut [f32], v: F) {
        to.copy_from_slice(&v[..to.len()]);
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(self, v: F) -> F {
        lanes(|i| v[i].round_ties_even())
    }
    #[inline(always)]
    fn sum4(self, v: [F; 4]) -> [f32; 4] {
        v.map(|v| ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])))
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn transpose(self, rows: &mut [F; LANES_MAX]) {
        for row in 0..LANES {
            for column in 0..row {
                (rows[row][column], rows[column][row]) = (rows[column][row], rows[row][column]);
            }
        }
    }

    #[inline(always)]
    fn u8s(self, from: &[u8]) -> I {
        lanes(|i| i32::from(from[..LANES][i]))
    }
    #[inline(always)]
    fn i8s(self, from: &[u8]) -> I {
        lanes(|i| i32::from(from[..LANES][i] as i8))
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> I {
        [value; LANES]
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        zip_i32(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        zip_i32(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        zip_i32(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn shl(self, v: I, bits: u32) -> I {
        lanes(|i| v[i] << bits)
    }
    #[inline(always)]
    fn shr(self, v: I, bits: u32) -> I {
        lanes(|i| ((v[i] as u32) >> bits) as i32)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        lanes(|i| i32::from(table[(index[i] & 15) as usize]))
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> F {
        lanes(|i| v[i] as f32)
    }
    #[inline(always)]
    fn to_i32(self, v: F) -> I {
        lanes(|i| v[i] as i32)
    }
    #[inline(always)]
    fn float_of(self, v: I) -> F {
        lanes(|i| f32::from_bits(v[i] as u32))
    }
    #[inline(always)]
    fn bits_of(self, v: F) -> I {
        lanes(|i| v[i].to_bits() as i32)
    }
    #[inline(always)]
    fn f32s(self, from: &[u8]) -> F {
        let from = &from[..4 * LANES];
        lanes(|i| f32::from_le_bytes([from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]]))
    }
    #[inline(always)]
    fn f16s(self, from: &[u8]) -> F {
        let from = &from[..2 * LANES];
        lanes(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn bf16s(self, from: &[u8]) -> F {
        let from = &from[..2 * LANES];
        lanes(|i| bf16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    unsafe fn halves_at(self, from: *const u16) -> F {
        // SAFETY: the caller says that so many values are readable.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes(|i| f16::from_bits(bits[i]).to_f32())
    }
    #[inline(always)]
    fn store_half(self, to: &mut [u16], v: F) {
        let to = &mut to[..LANES];
        to.iter_mut()
            .zip(v)
            .for_each(|(to, v)| *to = f16::from_f32(v).to_bits());
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [u16], v: F) -> F {
        let to = &mut to[..LANES];
        let rounded = lanes(|i| bf16::from_f32(v[i]));
        to.copy_from_slice(&rounded.map(bf16::to_bits));
        lanes(|i| v[i] - rounded[i].to_f32())
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8], v: I) {
        let to = &mut to[..LANES];
        to.iter_mut().zip(v).for_each(|(to, v)| *to = v as i8);
    }
    #[inline(always)]
    fn highest(self, v: F) -> f32 {
        v.iter().fold(v[0], |a, &b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn half(self, from: &[u8]) -> f32 {
        f16::from_le_bytes([from[0], from[1]]).to_f32()
    }
    #[inline(always)]
    fn splat_half(self, from: &[u8]) -> F {
        self.splat(self.half(from))
    }
}
