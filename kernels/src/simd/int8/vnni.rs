//! Dot products by AVX-512 VNNI: fours of bytes are multiplied and added into 32 bits at once.
//!
//! Invariant: as in the parent. A `Vnni` exists only where `detect` found the instructions.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::super::Avx512;
use super::{Int8, Int8Kernel};
use crate::isa::Isa;

type I = __m512i;

/// Holding it proves that the processor has AVX-512 VNNI beside what an `Avx512` proves.
#[derive(Clone, Copy)]
pub(crate) struct Vnni(Avx512);

impl Vnni {
    pub(crate) fn detect() -> Option<Vnni> {
        let avx512 = Avx512::detect()?;
        Isa::Vnni.is_here().then_some(Vnni(avx512))
    }

    pub(crate) fn avx512(self) -> Avx512 {
        self.0
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_with<K: Int8Kernel>(token: Vnni, kernel: K) {
    kernel.run(token);
}

impl Int8 for Vnni {
    const CENTRED: bool = false;
    type Floats = Avx512;
    type Codes = I;

    #[inline(always)]
    fn floats(self) -> Avx512 {
        self.0
    }

    fn run<K: Int8Kernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { run_with(self, kernel) }
    }

    #[inline(always)]
    unsafe fn codes_at(self, from: *const u8) -> I {
        // SAFETY: as the caller says.
        unsafe { self.0.codes_at(from) }
    }

    #[inline(always)]
    fn splat(self, codes: u32) -> I {
        Int8::splat(self.0, codes)
    }

    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        Int8::and(self.0, a, b)
    }

    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        Int8::or(self.0, a, b)
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, v: I) -> I {
        Int8::shr::<BITS>(self.0, v)
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, v: I) -> I {
        Int8::shl::<BITS>(self.0, v)
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        Int8::lookup(self.0, table, index)
    }

    #[inline(always)]
    unsafe fn dots<const BITS: u32, const N: usize, const R: usize>(
        self,
        mut sums: [I; R],
        codes: &[I; N],
        x: [*const i8; R],
    ) -> [I; R] {
        // SAFETY: the token proves the instruction; the caller, that all x are readable.
        unsafe {
            // Rows take turns, so that none waits for its own last sum.
            for i in 0..N {
                for r in 0..R {
                    let x = _mm512_set1_epi32(x[r].add(4 * i).cast::<i32>().read_unaligned());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], codes[i], x);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn mul_i32(self, a: I, b: I) -> I {
        self.0.mul_i32(a, b)
    }

    #[inline(always)]
    fn add_words(self, sum: I, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        self.0.prefetch(at);
    }

    #[inline(always)]
    fn prefetch_to_write(self, at: *const u8) {
        // SAFETY: a hint, for any address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn u8s_at(self, from: *const u8) -> I {
        // SAFETY: as the caller says.
        unsafe { self.0.u8s_at(from) }
    }

    #[inline(always)]
    unsafe fn i8s_at(self, from: *const u8) -> I {
        // SAFETY: as the caller says.
        unsafe { self.0.i8s_at(from) }
    }
}
