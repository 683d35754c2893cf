//! Vectors of eight floats by AVX2, FMA and F16C.
//!
//! Invariant: an `Avx2` exists only where `detect` found the instructions, which is what makes every intrinsic here
//! safe to call; pointers come from slices whose length was just checked.

use std::arch::x86_64::*;

use super::{Kernel, LANES_MAX, Simd};
use crate::isa::Isa;

/// Holding it proves that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

const LANES: usize = 8;
type F = __m256;
type I = __m256i;

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        Isa::Avx2.is_here().then_some(Avx2(()))
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_with<K: Kernel>(token: Avx2, kernel: K) {
    kernel.run(token);
}

/// Four rows of four columns in each half become four columns.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn turn_halves([a, b, c, d]: [F; 4]) -> [F; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let low_ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
        let low_cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
        let high_ab = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
        let high_cd = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low_ab, low_cd)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low_ab, low_cd)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high_ab, high_cd)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high_ab, high_cd)),
        ]
    }
}

impl Simd for Avx2 {
    const LANES: usize = LANES;
    const TOKENS: usize = 3;
    type F32 = F;
    type I32 = I;

    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { run_with(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> F {
        // SAFETY: the token proves the instruction; the caller, that the floats are readable.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        assert!(from.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> F {
        assert!(from.len() <= LANES);
        // SAFETY: the token proves the instruction; the mask keeps it within the slice.
        unsafe { _mm256_maskload_ps(from.as_ptr(), first(from.len())) }
    }
    #[inline(always)]
    fn store_some(self, to: &mut [f32], v: F) {
        assert!(to.len() <= LANES);
        // SAFETY: the token proves the instruction; the mask keeps it within the slice.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first(to.len()), v) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: F) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, v: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn sum4(self, v: [F; 4]) -> [f32; 4] {
        // SAFETY: the token proves the instructions; `sums` has room for four floats.
        unsafe {
            let half = |v: F| _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let [a, b, c, d] = [half(v[0]), half(v[1]), half(v[2]), half(v[3])];
            let mut sums = [0.0; 4];
            _mm_storeu_ps(
                sums.as_mut_ptr(),
                _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d)),
            );
            sums
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [F; LANES_MAX]) {
        // SAFETY: the token proves the instructions.
        unsafe {
            // Four rows at a time: a half of a vector has four rows of one column.
            for four in rows[..LANES].as_chunks_mut::<4>().0 {
                *four = turn_halves(*four);
            }
            for column in 0..4 {
                let [a, b] = [rows[column], rows[4 + column]];
                rows[column] = _mm256_permute2f128_ps::<0x20>(a, b);
                rows[4 + column] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: the token proves the instruction, which reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn u8s(self, from: &[u8]) -> I {
        assert!(from.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn i8s(self, from: &[u8]) -> I {
        assert!(from.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_add_epi32(a, b) }
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
    fn shl(self, v: I, bits: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(bits as i32)) }
    }
    #[inline(always)]
    fn shr(self, v: I, bits: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(bits as i32)) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: the token proves the instructions; the table has sixteen bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            // An index's three upper bytes are zero, and find the first entry.
            _mm256_and_si256(_mm256_shuffle_epi8(table, index), _mm256_set1_epi32(255))
        }
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn to_i32(self, v: F) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_cvtps_epi32(v) }
    }
    #[inline(always)]
    fn float_of(self, v: I) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    fn bits_of(self, v: F) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    fn f32s(self, from: &[u8]) -> F {
        assert!(from.len() >= 4 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_loadu_ps(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn f16s(self, from: &[u8]) -> F {
        assert!(from.len() >= 2 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn bf16s(self, from: &[u8]) -> F {
        assert!(from.len() >= 2 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(
                from.as_ptr().cast(),
            ))))
        }
    }
    #[inline(always)]
    unsafe fn halves_at(self, from: *const u16) -> F {
        // SAFETY: the token proves the instruction; the caller, that the values are readable.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    fn store_half(self, to: &mut [u16], v: F) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe {
            _mm_storeu_si128(
                to.as_mut_ptr().cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v),
            )
        }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [u16], v: F) -> F {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instructions; the length was checked.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            // Rounding could carry the bits of a NaN over into another number.
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0_0000), nan);
            let high = _mm256_srli_epi32::<16>(rounded);
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
            _mm_storeu_si128(to.as_mut_ptr().cast(), packed);
            _mm256_sub_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)))
        }
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8], v: I) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instructions; the length was checked.
        unsafe {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(to.as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        }
    }
    #[inline(always)]
    fn highest(self, v: F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn half(self, from: &[u8]) -> f32 {
        let bits = i16::from_le_bytes([from[0], from[1]]);
        // SAFETY: the token proves the instruction.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(bits))) }
    }
    // A broadcast, since writing one lane would wait for the register's last use.
    #[inline(always)]
    fn splat_half(self, from: &[u8]) -> F {
        let bits = i16::from_le_bytes([from[0], from[1]]);
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits)) }
    }
}

/// A mask of the first `len` lanes.
#[inline(always)]
fn first(len: usize) -> I {
    const ONES_THEN_ZEROS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let mask = &ONES_THEN_ZEROS[LANES - len..][..LANES];
    // SAFETY: only reached through a token; the slice has `LANES` integers.
    unsafe { _mm256_loadu_si256(mask.as_ptr().cast()) }
}
