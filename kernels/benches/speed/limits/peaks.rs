//! Loops that multiply and add as fast as the processor can, without reading memory.
//!
//! Invariant: each runs on sums that are independent of one another, enough of them to hide an instruction's latency, and
//! returns how many operations it did: two for each multiplication and addition.

use hyprstream_kernels::Isa;

use super::Kind;

/// Operations done, with instructions of this kind; 0 where the level has none.
#[cfg(target_arch = "x86_64")]
pub(super) fn multiply(isa: Isa, kind: Kind) -> usize {
    // SAFETY: the pool's level says that the processor has these instructions and, for tiles, that the system lets this
    // process use them.
    unsafe {
        match (kind, isa) {
            (_, Isa::Scalar) => 0,
            (Kind::F32, Isa::Avx2) => vectors::fma_256(),
            (Kind::F32, _) => vectors::fma_512(),
            (Kind::Int8, Isa::Avx2) => vectors::maddubs_256(),
            (Kind::Int8, Isa::Avx512) => vectors::maddubs_512(),
            (Kind::Int8, _) => vectors::dpbusd(),
            (Kind::Int16, Isa::Avx2) => vectors::madd_256(),
            (Kind::Int16, Isa::Avx512) => vectors::madd_512(),
            (Kind::Int16, _) => vectors::dpwssd(),
            (Kind::Bf16Tiles, Isa::Amx) => tiles::dpbf16ps(),
            (Kind::Int8Tiles, Isa::Amx) => tiles::dpbssd(),
            (Kind::Bf16Tiles | Kind::Int8Tiles, _) => 0,
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn multiply(_: Isa, _: Kind) -> usize {
    0
}

/// Twelve sums in registers.
#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const ROUNDS: usize = 1 << 14;

    macro_rules! peak {
        ($name:ident $features:literal $per:expr, $zero:expr, |$sum:ident, $a:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name() -> usize {
                let mut sums = [$zero; 12];
                let $a = black_box($zero);
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        let $sum = *sum;
                        *sum = $step;
                    }
                }
                black_box(sums);
                ROUNDS * sums.len() * $per
            }
        };
    }

    peak!(fma_256 "avx2,fma" 16, _mm256_setzero_ps(), |sum, a| _mm256_fmadd_ps(a, a, sum));
    peak!(fma_512 "avx512f" 32, _mm512_setzero_ps(), |sum, a| _mm512_fmadd_ps(a, a, sum));
    peak!(maddubs_256 "avx2" 64, _mm256_setzero_si256(), |sum, a| {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, sum))
    });
    peak!(maddubs_512 "avx512bw" 128, _mm512_setzero_si512(), |sum, a| {
        _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, sum))
    });
    peak!(dpbusd "avx512vnni,avx512f" 128, _mm512_setzero_si512(), |sum, a| {
        _mm512_dpbusd_epi32(sum, a, a)
    });
    peak!(madd_256 "avx2" 32, _mm256_setzero_si256(), |sum, a| {
        _mm256_add_epi32(sum, _mm256_madd_epi16(a, sum))
    });
    peak!(madd_512 "avx512bw" 64, _mm512_setzero_si512(), |sum, a| {
        _mm512_add_epi32(sum, _mm512_madd_epi16(a, sum))
    });
    peak!(dpwssd "avx512vnni,avx512f" 64, _mm512_setzero_si512(), |sum, a| {
        _mm512_dpwssd_epi32(sum, a, a)
    });
}

/// Two by two tiles of sums, whose operands stay where they are.
#[cfg(target_arch = "x86_64")]
pub mod tiles {
    use std::arch::asm;

    const ROUNDS: usize = 1 << 12;
    const SUMS: usize = 4;

    #[repr(C, align(64))]
    pub struct Shapes(pub [u8; 64]);

    /// What LDTILECFG wants: palette 1, then bytes of a row and rows of each of the eight tiles.
    pub static FULL: Shapes = {
        let mut shapes = [0; 64];
        shapes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            shapes[16 + 2 * tile] = 64;
            shapes[48 + tile] = 16;
            tile += 1;
        }
        Shapes(shapes)
    };

    macro_rules! peak {
        ($name:ident $instruction:literal $depth:literal) => {
            /// # Safety
            /// The processor has AMX and the system lets this process use it.
            pub unsafe fn $name() -> usize {
                // SAFETY: the caller's promise; what the tile registers held belonged to nobody, and they are released.
                // The configuration makes all tiles zero.
                unsafe {
                    asm!(
                        "ldtilecfg [{shapes}]",
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "dec {rounds}",
                        "jnz 2b",
                        "tilerelease",
                        shapes = in(reg) FULL.0.as_ptr(),
                        rounds = inout(reg) ROUNDS => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, readonly),
                    );
                }
                ROUNDS * SUMS * 2 * 16 * 16 * $depth
            }
        };
    }

    // 64 bytes of k: 32 bf16 or 64 int8.
    peak!(dpbf16ps "tdpbf16ps" 32);
    peak!(dpbssd "tdpbssd" 64);
}
