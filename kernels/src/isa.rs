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
    /// AVX-512 with VNNI: dot products of bytes.
    Vnni,
    /// AMX tiles of int8 and bf16, where the system lets this process use them.
    Amx,
}

impl Isa {
    /// Every level, the lowest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Vnni, Isa::Amx];

    /// The best level of this processor, or the one whose name `HYPRSTREAM_ISA` has.
    /// Asking for more than the processor has gives the best that it has.
    pub fn detect() -> Isa {
        let wanted = std::env::var("HYPRSTREAM_ISA").ok();
        let named = |isa: &Isa| Some(isa.name()) == wanted.as_deref();
        Isa::ALL.into_iter().find(named).unwrap_or(Isa::Amx).or_lower()
    }

    /// This level if the processor has it, else the best below it.
    pub fn or_lower(self) -> Isa {
        crate::simd::Level::of(self).isa()
    }

    /// A short name for status lines, and the value of `HYPRSTREAM_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Vnni => "vnni",
            Isa::Amx => "amx",
        }
    }
}
