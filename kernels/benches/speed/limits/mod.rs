//! What the machine can do at most, measured: reading memory, and multiplying without reading anything. And how much of
//! that something reaches.
//!
//! Invariant: a share is of the instructions that are really used. The larger of a line's two shares is how near it comes
//! to what this machine can give (its roofline): the other one cannot be higher then.

pub mod peaks;

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use hyprstream_kernels::Pool;
use peaks::multiply;

/// Streams that a thread reads at once, as kernels do.
const STREAMS: usize = 4;
const AHEAD: usize = 2 << 10;
/// How often each limit is measured, in turns, and the rounds of each: some of a second in all, in pieces of less than a
/// millisecond, as products are measured, so that some of them are whole where other programs take the processors at times.
const TURNS: usize = 8;
const ROUNDS: usize = 24;
/// Words of a round, of so many that no cache holds them.
const ROUND_WORDS: usize = 2 << 20;
const WORDS: usize = 64 << 20;
/// Pieces of a round for each thread, as kernels have several: a thread that loses its core leaves its rest to the others.
const PIECES: usize = 4;

/// The best of some rounds, in seconds.
pub fn best(rounds: usize, mut f: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

/// Instructions that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    Int8,
    Int16,
    Bf16Tiles,
    Int8Tiles,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::F32,
        Kind::Int8,
        Kind::Int16,
        Kind::Bf16Tiles,
        Kind::Int8Tiles,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32 vectors",
            Kind::Int8 => "int8 vectors",
            Kind::Int16 => "int16 vectors",
            Kind::Bf16Tiles => "bf16 tiles",
            Kind::Int8Tiles => "int8 tiles",
        }
    }
}

/// Of all threads together.
pub struct Limits {
    /// Bytes a second.
    read: f64,
    /// Operations a second, by kind; 0 where the level has no such instructions.
    peaks: [f64; Kind::ALL.len()],
}

impl Limits {
    /// The best of some turns.
    pub fn measure(pool: &Pool) -> Limits {
        let words = vec![1_u64; WORDS];
        let mut limits = Limits {
            read: 0.0,
            peaks: [0.0; Kind::ALL.len()],
        };
        for _ in 0..TURNS {
            limits.read = limits.read.max(read(pool, &words));
            for (kind, found) in Kind::ALL.into_iter().zip(&mut limits.peaks) {
                *found = found.max(peak(pool, kind));
            }
        }
        limits
    }

    /// The speed and the shares of work that read so many bytes of memory and took so many operations.
    pub fn speed(&self, kind: Kind, bytes: usize, operations: usize, seconds: f64) -> Speed {
        let (read, did) = (bytes as f64 / seconds, operations as f64 / seconds);
        Speed {
            read,
            operations: did,
            of_read: read / self.read,
            of_peak: did / self.peaks[kind as usize],
        }
    }
}

/// One line, which programs read too.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limits: read {:.1} GB/s", self.read / 1e9)?;
        for (kind, peak) in Kind::ALL.iter().zip(self.peaks).filter(|(_, peak)| *peak > 0.0) {
            write!(f, ", {} {:.0} GOP/s", kind.name(), peak / 1e9)?;
        }
        Ok(())
    }
}

/// How fast something is, and the shares of the limits that this is.
pub struct Speed {
    read: f64,
    operations: f64,
    of_read: f64,
    of_peak: f64,
}

impl Speed {
    /// What stands above such cells.
    pub const HEADING: &'static str = "  GB/s GOP/s read peak";
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, operations) = (self.read / 1e9, self.operations / 1e9);
        write!(f, "{read:6.1} {operations:5.0} {:3.0}% ", self.of_read * 100.0)?;
        if self.of_peak.is_finite() {
            write!(f, "{:3.0}%", self.of_peak * 100.0)
        } else {
            write!(f, "   -")
        }
    }
}

/// Bytes a second.
fn read(pool: &Pool, words: &[u64]) -> f64 {
    let pieces = PIECES * pool.threads();
    let share = ROUND_WORDS / pieces;
    let mut parts = words.chunks_exact(ROUND_WORDS).cycle();
    let seconds = best(WORDS / ROUND_WORDS, || {
        let part = parts.next().unwrap_or_default();
        pool.run(pieces, &|piece| {
            black_box(read_streams(&part[piece * share..][..share]));
        });
    });
    (share * pieces * 8) as f64 / seconds
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

/// Operations a second.
fn peak(pool: &Pool, kind: Kind) -> f64 {
    let (pieces, isa) = (PIECES * pool.threads(), pool.isa());
    let operations = multiply(isa, kind) * pieces;
    let seconds = best(ROUNDS, || {
        pool.run(pieces, &|_| {
            black_box(multiply(isa, kind));
        });
    });
    operations as f64 / seconds
}
