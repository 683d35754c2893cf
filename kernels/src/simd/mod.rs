//! Vectors of floats of one instruction set, behind one trait, so that each kernel is written once.
//!
//! Invariant: a value of a token type (`Avx2`, `Avx512`) exists only where the processor has the instructions; methods
//! take the token, so that they are safe. Kernels run inside `Simd::run`, whose function is compiled with the
//! instructions; everything below it must be `#[inline(always)]` to become part of that function.

mod exp;
pub(crate) mod int8;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::amx::Amx;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use exp::exp;
#[cfg(target_arch = "x86_64")]
pub(crate) use int8::Vnni;
pub(crate) use scalar::Scalar;

/// Lanes of the widest vectors.
pub(crate) const LANES_MAX: usize = 16;

/// Work that runs with the vectors of one instruction set.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, s: S);
}

/// The token of one instruction set and the operations on its vectors. Slices that are too short for a full vector
/// panic.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Floats of a vector: 8 or 16, so that it divides 32.
    const LANES: usize;
    /// Tokens that a 4-row tile multiplies at once without running out of registers.
    const TOKENS: usize;
    /// A vector of floats.
    type F32: Copy;
    /// A vector of 32-bit integers.
    type I32: Copy;

    /// Runs a kernel in a function compiled with these instructions.
    fn run<K: Kernel>(self, kernel: K);

    fn splat(self, value: f32) -> Self::F32;
    /// # Safety
    /// `from` is readable for `LANES` floats. Any alignment.
    unsafe fn load_at(self, from: *const f32) -> Self::F32;
    /// The first `LANES` values of `from`.
    fn load(self, from: &[f32]) -> Self::F32;
    /// All of `from` (at most `LANES`), then zeros.
    fn load_some(self, from: &[f32]) -> Self::F32;
    /// Into the first `LANES` of `to`.
    fn store(self, to: &mut [f32], v: Self::F32);
    /// Fills `to` (at most `LANES`).
    fn store_some(self, to: &mut [f32], v: Self::F32);
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The greater; `b` where one is not a number.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// To the nearest whole number.
    fn round(self, v: Self::F32) -> Self::F32;
    /// The four sums over lanes, all in the same order of addition.
    fn sum4(self, v: [Self::F32; 4]) -> [f32; 4];
    /// The eight sums over lanes, in the order of `sum4`.
    #[inline(always)]
    fn sum8(self, v: [Self::F32; 8]) -> [f32; 8] {
        let [a, b, c, d] = self.sum4([v[0], v[1], v[2], v[3]]);
        let [e, f, g, h] = self.sum4([v[4], v[5], v[6], v[7]]);
        [a, b, c, d, e, f, g, h]
    }
    /// The first `LANES` vectors as rows of a square become its columns.
    fn transpose(self, rows: &mut [Self::F32; LANES_MAX]);
    /// Asks memory for the line at `at`, which may be any address.
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}
    /// The sum over lanes, in the order of `sum4`.
    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        let zero = self.splat(0.0);
        self.sum4([v, zero, zero, zero])[0]
    }

    /// `LANES` bytes, unsigned.
    fn u8s(self, from: &[u8]) -> Self::I32;
    /// `LANES` bytes, signed.
    fn i8s(self, from: &[u8]) -> Self::I32;
    fn splat_i32(self, value: i32) -> Self::I32;
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn and(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn or(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn shl(self, v: Self::I32, bits: u32) -> Self::I32;
    /// Shifts zeros in.
    fn shr(self, v: Self::I32, bits: u32) -> Self::I32;
    /// The entries at these indexes, which are below 16.
    fn lookup(self, table: &[u8; 16], index: Self::I32) -> Self::I32;
    fn to_f32(self, v: Self::I32) -> Self::F32;
    fn to_i32(self, v: Self::F32) -> Self::I32;
    /// The floats with these bits.
    fn float_of(self, v: Self::I32) -> Self::F32;
    /// The bits of floats.
    fn bits_of(self, v: Self::F32) -> Self::I32;
    /// `LANES` f32 in bytes of any alignment.
    fn f32s(self, from: &[u8]) -> Self::F32;
    /// `LANES` f16 in bytes of any alignment.
    fn f16s(self, from: &[u8]) -> Self::F32;
    /// `LANES` bf16 in bytes of any alignment.
    fn bf16s(self, from: &[u8]) -> Self::F32;
    /// `LANES` f16, as their bits.
    ///
    /// # Safety
    /// `from` is readable for `LANES` values. Any alignment.
    unsafe fn halves_at(self, from: *const u16) -> Self::F32;
    /// f16 into the first `LANES` of `to`, rounded to nearest even.
    fn store_half(self, to: &mut [u16], v: Self::F32);
    /// bf16 into the first `LANES` of `to`, rounded to nearest even. Returns what the rounding took away, which is exact.
    fn store_bf16(self, to: &mut [u16], v: Self::F32) -> Self::F32;
    /// The lowest bytes into the first `LANES` of `to`; values that fit in one.
    fn store_i8(self, to: &mut [i8], v: Self::I32);
    /// The greatest of all lanes. None may be NaN.
    fn highest(self, v: Self::F32) -> f32;
    /// One f16 in the first two bytes.
    fn half(self, from: &[u8]) -> f32;
    /// One f16 in the first two bytes, in all lanes.
    fn splat_half(self, from: &[u8]) -> Self::F32;
}

/// The token of a level that this processor has.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Vectors as `Avx512`, and dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    /// Vectors as `Avx512`, and tiles.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

impl Level {
    /// The level asked for, or the best below it.
    pub(crate) fn of(isa: Isa) -> Level {
        let level = match isa.or_lower() {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::detect().map(Level::Amx),
            #[cfg(target_arch = "x86_64")]
            Isa::Vnni => Vnni::detect().map(Level::Vnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Level::Avx2),
            _ => None,
        };
        level.unwrap_or(Level::Scalar(Scalar))
    }

    /// The process's level, found once.
    pub(crate) fn default() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| Level::of(Isa::detect()))
    }

    /// The token of the tiles, where this level has them.
    #[cfg(target_arch = "x86_64")]
    #[allow(dead_code)]
    pub(crate) fn amx(self) -> Option<Amx> {
        match self {
            Level::Amx(token) => Some(token),
            _ => None,
        }
    }

    pub(crate) fn isa(self) -> Isa {
        match self {
            Level::Scalar(_) => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Level::Vnni(_) => Isa::Vnni,
            #[cfg(target_arch = "x86_64")]
            Level::Amx(_) => Isa::Amx,
        }
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self {
            Level::Scalar(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Vnni(token) => token.avx512().run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Amx(token) => token.avx512().run(kernel),
        }
    }
}
