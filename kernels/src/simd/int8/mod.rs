//! Dot products of unsigned codes with signed int8 activations, behind one trait, for each instruction set.
//!
//! Invariant: sums are exact, so every implementation gives the same integers. Tokens prove instructions as in the
//! parent.

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::{Level, Simd};
#[cfg(target_arch = "x86_64")]
pub(crate) use vnni::Vnni;

/// Work that runs with the dot products of one instruction set.
pub(crate) trait Int8Kernel {
    fn run<T: Int8>(self, t: T);
}

/// A level's dot products. A `Codes` has four codes for each lane of `Floats`.
pub(crate) trait Int8: Copy + Send + Sync {
    /// Whether 8-bit codes have 128 taken off before they are multiplied, so that their sums need no start.
    const CENTRED: bool;
    type Floats: Simd;
    type Codes: Copy;

    fn floats(self) -> Self::Floats;
    /// Runs a kernel in a function compiled with these instructions.
    fn run<K: Int8Kernel>(self, kernel: K);

    /// # Safety
    /// `from` is readable for four bytes a lane. Any alignment.
    unsafe fn codes_at(self, from: *const u8) -> Self::Codes;
    /// The same four codes in all lanes.
    fn splat(self, codes: u32) -> Self::Codes;
    fn and(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// Every 32 bits as one number, which a mask has to follow.
    fn shr<const BITS: u32>(self, v: Self::Codes) -> Self::Codes;
    /// As `shr`.
    fn shl<const BITS: u32>(self, v: Self::Codes) -> Self::Codes;
    /// Entries of the table at these indexes, which are below 16.
    fn lookup(self, table: &[u8; 16], index: Self::Codes) -> Self::Codes;

    /// Of each row `sum + codes[0] . x[0..4] + codes[1] . x[4..8] + ..`, where codes have at most `BITS` bits, and x is nowhere
    /// -128. With `CENTRED` and 8 bits, codes count as 128 less.
    ///
    /// # Safety
    /// Each of `x` is readable for `4 * N` values. Any alignment.
    unsafe fn dots<const BITS: u32, const N: usize, const R: usize>(
        self,
        sums: [I32<Self>; R],
        codes: &[Self::Codes; N],
        x: [*const i8; R],
    ) -> [I32<Self>; R];

    /// The lower 32 bits of products.
    fn mul_i32(self, a: I32<Self>, b: I32<Self>) -> I32<Self>;
    /// `sum + a.low * b.low + a.high * b.high`, of words with a sign.
    fn add_words(self, sum: I32<Self>, a: I32<Self>, b: I32<Self>) -> I32<Self>;

    /// Asks for the cache line at `at`, which need not be readable.
    fn prefetch(self, at: *const u8);

    /// As `prefetch`, for a line that will be written.
    #[inline(always)]
    fn prefetch_to_write(self, _at: *const u8) {}

    /// `Floats::u8s`.
    ///
    /// # Safety
    /// `from` is readable for a byte a lane.
    unsafe fn u8s_at(self, from: *const u8) -> I32<Self>;
    /// `Floats::i8s`.
    ///
    /// # Safety
    /// `from` is readable for a byte a lane.
    unsafe fn i8s_at(self, from: *const u8) -> I32<Self>;
}

pub(crate) type F32<T> = <<T as Int8>::Floats as Simd>::F32;
pub(crate) type I32<T> = <<T as Int8>::Floats as Simd>::I32;

impl Level {
    /// Runs a kernel with this level's dot products.
    // Inlined, so that the kernel is not copied: reading pieces that were just written waits for all outputs to be stored.
    #[inline(always)]
    pub(crate) fn run_int8<K: Int8Kernel>(self, kernel: K) {
        match self {
            Level::Scalar(token) => Int8::run(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => Int8::run(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => Int8::run(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Vnni(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Amx(token) => token.vnni().run(kernel),
        }
    }
}

/// How many dot products of fours of `BITS`-bit codes fit in 16 bits with a sign: pairs of them are added there first.
#[cfg(target_arch = "x86_64")]
const fn fours_in_16_bits(bits: u32) -> usize {
    let code = (1 << bits) - 1;
    // Codes of 8 bits count from -128.
    let largest = if bits == 8 { 128 } else { code };
    i16::MAX as usize / (2 * 127 * largest)
}
