//! Which instruction set the kernels use, found once at run time.
//!
//! Invariant: an `Isa` that `detect` or `or_lower` returns is one that this processor runs.

/// A level of vector instructions. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code without intrinsics.
    Scalar,
    /// AVX2 with FMA and F16C: 8 floats a vector.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 floats a vector.
    Avx512,
}

impl Isa {
    /// The best level of this processor, or the one that `HYPRSTREAM_ISA` (`scalar`, `avx2`, `avx512`) asks for.
    /// Asking for more than the processor has gives the best that it has.
    pub fn detect() -> Isa {
        let wanted = match std::env::var("HYPRSTREAM_ISA").ok().as_deref() {
            Some("scalar") => Isa::Scalar,
            Some("avx2") => Isa::Avx2,
            _ => Isa::Avx512,
        };
        wanted.or_lower()
    }

    /// This level if the processor has it, else the best below it.
    pub fn or_lower(self) -> Isa {
        crate::simd::Level::of(self).isa()
    }

    /// A short name for status lines.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}
