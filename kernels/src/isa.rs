//! Which instruction set the kernels use, found once at run time.
//!
//! Invariant: an `Isa` that `detect` or `or_lower` returns is one that this processor runs, with all levels below it.

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

/// What a level may need of the processor and the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Avx2,
    Fma,
    F16c,
    Avx512F,
    Avx512Bw,
    Avx512Dq,
    Avx512Vl,
    Avx512Vnni,
    Avx512Vbmi,
    Avx512Bf16,
    /// Tiles of int8 and bf16, and registers for them that the system saves.
    AmxTiles,
    /// The system's permission for this process. Asking changes the process, so it is asked for last.
    AmxPermission,
}

impl Isa {
    /// Every level, the lowest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Vnni, Isa::Amx];

    /// The best level of this processor, or the one whose name `HYPRSTREAM_ISA` has.
    /// Asking for more than the processor has gives the best that it has.
    pub fn detect() -> Isa {
        Isa::wanted(std::env::var("HYPRSTREAM_ISA").ok().as_deref()).or_lower()
    }

    /// The level of this name; an unknown one, or none, wants the best.
    fn wanted(name: Option<&str>) -> Isa {
        let named = |isa: &Isa| Some(isa.name()) == name;
        Isa::ALL.into_iter().find(named).unwrap_or(Isa::Amx)
    }

    /// This level if the processor has it, else the best below it.
    pub fn or_lower(self) -> Isa {
        self.highest(Feature::is_here)
    }

    /// The highest level up to this one of a processor with these features.
    fn highest(self, has: impl Fn(Feature) -> bool) -> Isa {
        let up_to = Isa::ALL.into_iter().take_while(|isa| *isa <= self);
        up_to
            .take_while(|isa| isa.needs().iter().all(|feature| has(*feature)))
            .last()
            .unwrap_or(Isa::Scalar)
    }

    /// Whether this processor has this level.
    pub(crate) fn is_here(self) -> bool {
        self.or_lower() == self
    }

    /// What it needs beside what the levels before it do. The kernels of a level are compiled for these.
    fn needs(self) -> &'static [Feature] {
        use Feature as F;
        match self {
            Isa::Scalar => &[],
            Isa::Avx2 => &[F::Avx2, F::Fma, F::F16c],
            Isa::Avx512 => &[F::Avx512F, F::Avx512Bw, F::Avx512Dq, F::Avx512Vl],
            Isa::Vnni => &[F::Avx512Vnni],
            Isa::Amx => &[F::Avx512Vbmi, F::Avx512Bf16, F::AmxTiles, F::AmxPermission],
        }
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

impl Feature {
    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Feature::Avx2 => has!("avx2"),
            Feature::Fma => has!("fma"),
            Feature::F16c => has!("f16c"),
            Feature::Avx512F => has!("avx512f"),
            Feature::Avx512Bw => has!("avx512bw"),
            Feature::Avx512Dq => has!("avx512dq"),
            Feature::Avx512Vl => has!("avx512vl"),
            Feature::Avx512Vnni => has!("avx512vnni"),
            Feature::Avx512Vbmi => has!("avx512vbmi"),
            Feature::Avx512Bf16 => has!("avx512bf16"),
            Feature::AmxTiles => crate::amx::found(),
            Feature::AmxPermission => crate::amx::permitted(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Feature::*;
    use super::*;

    /// What the kernels of each level are compiled for, said a second time.
    const ADDED: [(Isa, &[Feature]); 5] = [
        (Isa::Scalar, &[]),
        (Isa::Avx2, &[Avx2, Fma, F16c]),
        (Isa::Avx512, &[Avx512F, Avx512Bw, Avx512Dq, Avx512Vl]),
        (Isa::Vnni, &[Avx512Vnni]),
        (Isa::Amx, &[Avx512Vbmi, Avx512Bf16, AmxTiles, AmxPermission]),
    ];

    /// All that a processor of this level has.
    fn features(isa: Isa) -> Vec<Feature> {
        let up_to = ADDED.iter().filter(|(each, _)| *each <= isa);
        up_to.flat_map(|(_, features)| features.to_vec()).collect()
    }

    fn level(features: &[Feature]) -> Isa {
        Isa::Amx.highest(|feature| features.contains(&feature))
    }

    #[test]
    fn a_processor_gets_the_highest_level_that_it_has_whole() {
        assert_eq!(level(&[]), Isa::Scalar, "an unknown processor");
        assert_eq!(level(&[Avx2]), Isa::Scalar, "without FMA");
        assert_eq!(level(&[Avx2, Fma, F16c]), Isa::Avx2);
        assert_eq!(level(&[Avx2, Fma, F16c, Avx512F]), Isa::Avx2, "Xeon Phi");
        let (_, tiles) = ADDED[4];
        assert_eq!(level(tiles), Isa::Scalar, "a level includes the ones before it");
        let no_dot_products = [&features(Isa::Avx512), tiles].concat();
        assert_eq!(level(&no_dot_products), Isa::Avx512);
        let mut refused = features(Isa::Amx);
        refused.retain(|feature| *feature != AmxPermission);
        assert_eq!(level(&refused), Isa::Vnni, "the system gives no tiles");
    }

    #[test]
    fn no_level_does_without_any_of_its_features() {
        for isa in Isa::ALL {
            let all = features(isa);
            assert_eq!(level(&all), isa);
            for missing in &all {
                let rest: Vec<_> = all.iter().copied().filter(|each| each != missing).collect();
                assert!(level(&rest) < isa, "{isa:?} without {missing:?}");
            }
        }
    }

    #[test]
    fn never_more_than_was_asked_for_and_never_more_than_there_is() {
        for most in Isa::ALL {
            for there in Isa::ALL {
                let here = features(there);
                assert_eq!(most.highest(|f| here.contains(&f)), most.min(there));
            }
        }
        let asked = std::cell::Cell::new(false);
        Isa::Vnni.highest(|feature| {
            asked.set(asked.get() || feature == AmxPermission);
            true
        });
        assert!(!asked.get(), "nobody asks for tiles who does not want them");
    }

    #[test]
    fn a_name_wants_its_level_and_an_unknown_one_the_best() {
        for isa in Isa::ALL {
            assert_eq!(Isa::wanted(Some(isa.name())), isa);
        }
        for unknown in [None, Some(""), Some("AVX2"), Some("neon")] {
            assert_eq!(Isa::wanted(unknown), Isa::Amx, "{unknown:?}");
        }
    }

    /// Another source for the same: what Linux says of the processor.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn this_processor_has_what_the_system_says() {
        let Ok(cpu) = std::fs::read_to_string("/proc/cpuinfo") else {
            return;
        };
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or("");
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let levels: [(Isa, &[&str]); 3] = [
            (Isa::Avx2, &["avx2", "fma", "f16c"]),
            (Isa::Avx512, &["avx512f", "avx512bw", "avx512dq", "avx512vl"]),
            (Isa::Vnni, &["avx512_vnni"]),
        ];
        let whole = levels
            .into_iter()
            .take_while(|(_, names)| names.iter().all(|name| has(name)));
        let expected = whole.last().map_or(Isa::Scalar, |(isa, _)| isa);
        assert_eq!(Isa::Vnni.or_lower(), expected);
    }
}
