//! What the machine can do at most, measured: reading memory, and multiplying without reading anything.
//!
//! Invariant: the loops here do only that, with the instructions of the pool's level.

use std::hint::black_box;

use hyprstream_kernels::{Isa, Pool};

use super::best;

/// Streams that a thread reads at once, as kernels do.
const STREAMS: usize = 4;
const AHEAD: usize = 2 << 10;

/// Of all threads together.
pub struct Limits {
    /// Bytes a second.
    pub read: f64,
    /// Multiplications and additions of f32 a second.
    pub f32: f64,
    /// Multiplications and additions of int8 a second.
    pub int8: f64,
}

impl Limits {
    pub fn measure(pool: &Pool) -> Limits {
        Limits {
            read: read(pool),
            f32: peak(pool, Kind::F32),
            int8: peak(pool, Kind::Int8),
        }
    }

    pub fn print(&self) {
        println!(
            "limits: read {:.1} GB/s, f32 {:.0} GFLOP/s, int8 vectors {:.0} GOP/s",
            self.read / 1e9,
            self.f32 / 1e9,
            self.int8 / 1e9
        );
    }
}

fn read(pool: &Pool) -> f64 {
    let bytes = vec![1_u64; 64 << 20];
    let threads = pool.threads();
    let share = bytes.len() / threads;
    let seconds = best(3, || {
        pool.run(threads, &|thread| {
            black_box(read_streams(&bytes[thread * share..][..share]));
        });
    });
    (share * threads * 8) as f64 / seconds
}

fn read_streams(words: &[u64]) -> u64 {
    let len = words.len() / STREAMS / 8 * 8;
    let mut sums = [0_u64; STREAMS];
    for at in (0..len).step_by(8) {
        for (stream, sum) in sums.iter_mut().enumerate() {
            let line = &words[stream * len + at..][..8];
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a hint, for any address.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast::<i8>().wrapping_add(AHEAD));
            }
            // One word of each line brings the whole of it.
            *sum = sum.wrapping_add(line[0]);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[derive(Clone, Copy)]
enum Kind {
    F32,
    Int8,
}

const ROUNDS: usize = 1 << 20;

/// Operations a second, two for each multiplication and addition.
fn peak(pool: &Pool, kind: Kind) -> f64 {
    let threads = pool.threads();
    let isa = pool.isa();
    let seconds = best(3, || {
        pool.run(threads, &|_| {
            black_box(multiply(isa, kind));
        });
    });
    (multiply(isa, kind) * threads) as f64 / seconds
}

#[cfg(target_arch = "x86_64")]
fn multiply(isa: Isa, kind: Kind) -> usize {
    // SAFETY: the pool's level says that the processor has these instructions.
    unsafe {
        match (isa, kind) {
            (Isa::Scalar, _) => 0,
            (Isa::Avx2, Kind::F32) => x86::fma_256(),
            (Isa::Avx2, Kind::Int8) => x86::maddubs_256(),
            (_, Kind::F32) => x86::fma_512(),
            (Isa::Avx512, Kind::Int8) => x86::maddubs_512(),
            (_, Kind::Int8) => x86::dpbusd(),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply(_: Isa, _: Kind) -> usize {
    0
}

/// Loops over twelve independent sums; each returns how many operations it did.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROUNDS, black_box};
    use std::arch::x86_64::*;

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
}
