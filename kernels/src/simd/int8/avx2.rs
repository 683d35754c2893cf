//! Dot products by AVX2: pairs of bytes are multiplied and added in 16 bits, which saturate, so only as many are added
//! there as fit.
//!
//! Invariant: as in the parent.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::super::Avx2;
use super::{Int8, Int8Kernel, fours_in_16_bits};

type I = __m256i;

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_with<K: Int8Kernel>(token: Avx2, kernel: K) {
    kernel.run(token);
}

impl Int8 for Avx2 {
    const CENTRED: bool = true;
    type Floats = Avx2;
    type Codes = I;

    #[inline(always)]
    fn floats(self) -> Avx2 {
        self
    }

    fn run<K: Int8Kernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { run_with(self, kernel) }
    }

    #[inline(always)]
    unsafe fn codes_at(self, from: *const u8) -> I {
        // SAFETY: the token proves the instruction; the caller, that the bytes are readable.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn splat(self, codes: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_set1_epi32(codes as i32) }
    }

    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, v: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(BITS as i32)) }
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, v: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(BITS as i32)) }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: the token proves the instructions; the table has 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, index)
        }
    }

    #[inline(always)]
    unsafe fn dots<const BITS: u32, const N: usize, const R: usize>(
        self,
        mut sums: [I; R],
        codes: &[I; N],
        x: [*const i8; R],
    ) -> [I; R] {
        // SAFETY: the token proves the instructions; the caller, that all x are readable.
        unsafe {
            for r in 0..R {
                let mut words = _mm256_setzero_si256();
                for i in 0..N {
                    let x = _mm256_set1_epi32(x[r].add(4 * i).cast::<i32>().read_unaligned());
                    let products = if BITS == 8 {
                        // One factor is unsigned: the code's magnitude, whose sign goes to x.
                        let centred = _mm256_xor_si256(codes[i], _mm256_set1_epi8(-128));
                        _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred))
                    } else {
                        _mm256_maddubs_epi16(codes[i], x)
                    };
                    words = if i % fours_in_16_bits(BITS) == 0 {
                        products
                    } else {
                        _mm256_add_epi16(words, products)
                    };
                    if (i + 1) % fours_in_16_bits(BITS) == 0 || i + 1 == N {
                        sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn mul_i32(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn add_words(self, sum: I, a: I, b: I) -> I {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint, for any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_write(self, at: *const u8) {
        // SAFETY: a hint, for any address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn u8s_at(self, from: *const u8) -> I {
        // SAFETY: the token proves the instruction; the caller, that eight bytes are readable.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }

    #[inline(always)]
    unsafe fn i8s_at(self, from: *const u8) -> I {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }
}
