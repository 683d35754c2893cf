//! Dot products by AVX-512 BW, as those of AVX2 on twice the bytes.
//!
//! Invariant: as in the parent.

// Indices name registers here: the loops unroll.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::super::Avx512;
use super::{Int8, Int8Kernel, fours_in_16_bits};

type I = __m512i;

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_with<K: Int8Kernel>(token: Avx512, kernel: K) {
    kernel.run(token);
}

impl Int8 for Avx512 {
    const CENTRED: bool = true;
    type Floats = Avx512;
    type Codes = I;

    #[inline(always)]
    fn floats(self) -> Avx512 {
        self
    }

    fn run<K: Int8Kernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { run_with(self, kernel) }
    }

    #[inline(always)]
    unsafe fn codes_at(self, from: *const u8) -> I {
        // SAFETY: the token proves the instruction; the caller, that the bytes are readable.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn splat(self, codes: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_epi32(codes as i32) }
    }

    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, v: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_srli_epi32::<BITS>(v) }
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, v: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_slli_epi32::<BITS>(v) }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: the token proves the instructions; the table has 16 bytes.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
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
                let mut words = _mm512_setzero_si512();
                for i in 0..N {
                    let x = _mm512_set1_epi32(x[r].add(4 * i).cast::<i32>().read_unaligned());
                    let products = if BITS == 8 {
                        // One factor is unsigned: the code's magnitude, whose sign goes to x.
                        let centred = _mm512_xor_si512(codes[i], _mm512_set1_epi8(-128));
                        let signed =
                            _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(centred), _mm512_setzero_si512(), x);
                        _mm512_maddubs_epi16(_mm512_abs_epi8(centred), signed)
                    } else {
                        _mm512_maddubs_epi16(codes[i], x)
                    };
                    words = if i % fours_in_16_bits(BITS) == 0 {
                        products
                    } else {
                        _mm512_add_epi16(words, products)
                    };
                    if (i + 1) % fours_in_16_bits(BITS) == 0 || i + 1 == N {
                        sums[r] = _mm512_add_epi32(sums[r], _mm512_madd_epi16(words, _mm512_set1_epi16(1)));
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn mul_i32(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn add_words(self, sum: I, a: I, b: I) -> I {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)) }
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
        // SAFETY: the token proves the instruction; the caller, that 16 bytes are readable.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn i8s_at(self, from: *const u8) -> I {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }
}
