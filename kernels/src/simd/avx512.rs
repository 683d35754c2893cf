//! Vectors of sixteen floats by AVX-512 F, BW, DQ and VL.
//!
//! Invariant: an `Avx512` exists only where `detect` found the instructions, which is what makes every intrinsic here
//! safe to call; pointers come from slices whose length was just checked.

use std::arch::x86_64::*;

use super::{Kernel, LANES_MAX, Simd};
use crate::isa::Isa;

/// Holding it proves that the processor has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

const LANES: usize = 16;
type F = __m512;
type I = __m512i;

impl Avx512 {
    pub(crate) fn detect() -> Option<Avx512> {
        Isa::Avx512.is_here().then_some(Avx512(()))
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_with<K: Kernel>(token: Avx512, kernel: K) {
    kernel.run(token);
}

/// `[a's halves added, b's halves added]`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn fold_halves(a: F, b: F) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        )
    }
}

/// Neighbouring quarters added: two of `a`, then two of `b`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn fold_quarters(a: F, b: F) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        )
    }
}

/// Neighbours added, in each quarter: two of `a`, then two of `b`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn fold_pairs(a: F, b: F) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_ps::<0b10_00_10_00>(a, b),
            _mm512_shuffle_ps::<0b11_01_11_01>(a, b),
        )
    }
}

/// Four rows of four columns in each quarter become four columns.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn turn_quarters([a, b, c, d]: [F; 4]) -> [F; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let low_ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let low_cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
        let high_ab = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let high_cd = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
        [
            _mm512_castpd_ps(_mm512_unpacklo_pd(low_ab, low_cd)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low_ab, low_cd)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(high_ab, high_cd)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(high_ab, high_cd)),
        ]
    }
}

impl Simd for Avx512 {
    const LANES: usize = LANES;
    const TOKENS: usize = 6;
    type F32 = F;
    type I32 = I;

    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { run_with(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> F {
        // SAFETY: the token proves the instruction; the caller, that the floats are readable.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        assert!(from.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> F {
        assert!(from.len() <= LANES);
        // SAFETY: the token proves the instruction; the mask keeps it within the slice.
        unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_some(self, to: &mut [f32], v: F) {
        assert!(to.len() <= LANES);
        // SAFETY: the token proves the instruction; the mask keeps it within the slice.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), v) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: F) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, v: F) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn sum4(self, v: [F; 4]) -> [f32; 4] {
        // SAFETY: the token proves the instructions; `sums` has room for four floats.
        unsafe {
            let quarter = |v: F| {
                let half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
            };
            let [a, b, c, d] = [quarter(v[0]), quarter(v[1]), quarter(v[2]), quarter(v[3])];
            let mut sums = [0.0; 4];
            _mm_storeu_ps(
                sums.as_mut_ptr(),
                _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d)),
            );
            sums
        }
    }
    #[inline(always)]
    fn sum8(self, v: [F; 8]) -> [f32; 8] {
        // SAFETY: the token proves the instructions; `sums` has room for eight floats.
        unsafe {
            // The halves of each vector, then its quarters: four vectors become one of four lanes of four sums.
            let ab = fold_halves(v[0], v[1]);
            let cd = fold_halves(v[2], v[3]);
            let ef = fold_halves(v[4], v[5]);
            let gh = fold_halves(v[6], v[7]);
            let (first, last) = (fold_quarters(ab, cd), fold_quarters(ef, gh));
            let pairs = fold_pairs(first, last);
            let both = fold_pairs(pairs, pairs);
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
            let mut sums = [0.0; 8];
            let eight = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, both));
            _mm256_storeu_ps(sums.as_mut_ptr(), eight);
            sums
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [F; LANES_MAX]) {
        // SAFETY: the token proves the instructions.
        unsafe {
            // Four rows at a time: a quarter of a vector has four rows of one column.
            for four in rows.as_chunks_mut::<4>().0 {
                *four = turn_quarters(*four);
            }
            // The same column of all of them: quarter q is that of the fourth column from column q on.
            for column in 0..4 {
                let [a, b] = [rows[column], rows[4 + column]];
                let [c, d] = [rows[8 + column], rows[12 + column]];
                let ab = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                let cd = _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d);
                rows[column] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
                rows[4 + column] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
                let ab = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
                let cd = _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d);
                rows[8 + column] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
                rows[12 + column] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
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
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn i8s(self, from: &[u8]) -> I {
        assert!(from.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_add_epi32(a, b) }
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
    fn shl(self, v: I, bits: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_sll_epi32(v, _mm_cvtsi32_si128(bits as i32)) }
    }
    #[inline(always)]
    fn shr(self, v: I, bits: u32) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_srl_epi32(v, _mm_cvtsi32_si128(bits as i32)) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: the token proves the instructions; the table has sixteen bytes.
        unsafe {
            let table = _mm512_cvtepu8_epi32(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_permutexvar_epi32(index, table)
        }
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn to_i32(self, v: F) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_cvtps_epi32(v) }
    }
    #[inline(always)]
    fn float_of(self, v: I) -> F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    fn bits_of(self, v: F) -> I {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    fn f32s(self, from: &[u8]) -> F {
        assert!(from.len() >= 4 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm512_loadu_ps(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn f16s(self, from: &[u8]) -> F {
        assert!(from.len() >= 2 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn bf16s(self, from: &[u8]) -> F {
        assert!(from.len() >= 2 * LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
                _mm256_loadu_si256(from.as_ptr().cast()),
            )))
        }
    }
    #[inline(always)]
    unsafe fn halves_at(self, from: *const u16) -> F {
        // SAFETY: the token proves the instruction; the caller, that the values are readable.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    fn store_half(self, to: &mut [u16], v: F) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe {
            _mm256_storeu_si256(
                to.as_mut_ptr().cast(),
                _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v),
            )
        }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [u16], v: F) -> F {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instructions; the length was checked.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            // Rounding could carry the bits of a NaN over into another number.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
            let high = _mm512_srli_epi32::<16>(rounded);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(high));
            _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)))
        }
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8], v: I) {
        assert!(to.len() >= LANES);
        // SAFETY: the token proves the instruction; the length was checked.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn highest(self, v: F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_reduce_max_ps(v) }
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
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits)) }
    }
}

/// A mask of the first `len` lanes.
#[inline(always)]
fn first(len: usize) -> __mmask16 {
    ((1u32 << len) - 1) as __mmask16
}
