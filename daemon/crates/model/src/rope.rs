//! Rotary position embeddings: how fast each pair of values turns. Invariant: frequencies are finite and positive for
//! every `Rope` that `Config::check` lets through.
//!
//! RoPE: arXiv 2104.09864. YaRN: arXiv 2309.00071. The arithmetic is in f32 in the order of `transformers`, whose
//! logits define right.

use hyprstream_kernels::RopeLayout;
use std::f32::consts::TAU;

/// Rotary embedding of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many values of each head turn; the rest stay.
    pub dims: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Which values turn together.
    pub layout: RopeLayout,
    /// How it was stretched for longer texts.
    pub scaling: RopeScaling,
}

/// Ways to stretch the context. Others are refused by name.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency over `factor`.
    Linear { factor: f32 },
    /// Slow frequencies over `factor`, fast ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: f32,
    },
    /// Ramp by dimension between interpolated and kept, and a factor on cosine and sine.
    Yarn {
        factor: f32,
        original: f32,
        beta_fast: f32,
        beta_slow: f32,
        ext_factor: f32,
        attn_factor: f32,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

impl Rope {
    /// Radians per position of each pair, `[dims / 2]`. `factors` divide them, as GGUF's `rope_freqs.weight` does.
    pub fn inverse_frequencies(&self, factors: Option<&[f32]>) -> Vec<f32> {
        let pairs = self.dims / 2;
        let factor_of = |i: usize| factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
        let base = (0..pairs).map(|i| {
            let power = self.theta.powf((2 * i) as f32 / self.dims as f32);
            1.0 / power / factor_of(i)
        });
        match self.scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => base.map(|f| llama3(f, factor, low, high, original)).collect(),
            RopeScaling::Yarn {
                factor, ext_factor, ..
            } => {
                let (from, to) = self.yarn_range();
                let ramp = |i: usize| ((i as f32 - from) / (to - from)).clamp(0.0, 1.0);
                let kept = |i: usize| (1.0 - ramp(i)) * ext_factor;
                base.enumerate()
                    .map(|(i, f)| f / factor * (1.0 - kept(i)) + f * kept(i))
                    .collect()
            }
        }
    }

    /// What cosine and sine are multiplied by: 1 except for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn {
                factor,
                ext_factor,
                attn_factor,
                ..
            } if ext_factor != 0.0 => attn_factor * yarn_magnitude(factor),
            RopeScaling::Yarn { attn_factor, .. } => attn_factor,
            _ => 1.0,
        }
    }

    /// The pairs between which YaRN goes over from kept to interpolated.
    fn yarn_range(&self) -> (f32, f32) {
        let RopeScaling::Yarn {
            original,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = self.scaling
        else {
            return (0.0, 1.0);
        };
        let dims = self.dims as f32;
        let pair = |turns: f32| dims * (original / (turns * TAU)).ln() / (2.0 * self.theta.ln());
        let (mut from, mut to) = (pair(beta_fast), pair(beta_slow));
        if truncate {
            (from, to) = (from.floor(), to.ceil());
        }
        (from, to) = (from.max(0.0), to.min(dims - 1.0));
        // As in the paper's code: a ramp of no width would divide by zero.
        if from == to {
            (from, to + 0.001)
        } else {
            (from, to)
        }
    }
}

/// YaRN's factor on cosine and sine.
pub(crate) fn yarn_magnitude(factor: f32) -> f32 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * factor.ln() + 1.0
    }
}

fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = TAU / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies differ from those of `transformers` by the rounding of `powf` alone.
    const FREQUENCY_REL_MAX: f32 = 1e-5;

    fn rope(theta: f32, scaling: RopeScaling) -> Rope {
        Rope {
            dims: 16,
            theta,
            layout: RopeLayout::Half,
            scaling,
        }
    }

    fn agrees(rope: &Rope, wanted: [f32; 8], factor: f32) {
        let found = rope.inverse_frequencies(None);
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(
                (found - wanted).abs() <= FREQUENCY_REL_MAX * wanted,
                "{found} is not {wanted}"
            );
        }
        assert!(
            (rope.attention_factor() - factor).abs() < 1e-6,
            "{}",
            rope.attention_factor()
        );
    }

    // The numbers are those of transformers 5.23, ROPE_INIT_FUNCTIONS.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 1024.0,
        };
        let llama3 = [
            1.0,
            0.19392276,
            0.03760603,
            0.0013125695,
            0.00017677668,
            3.4281024e-05,
            6.6478697e-06,
            1.2891732e-06,
        ];
        agrees(&rope(5e5, scaling), llama3, 1.0);
        let yarn = |factor, original, beta_fast, beta_slow, attn_factor, truncate| RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            ext_factor: 1.0,
            attn_factor,
            truncate,
        };
        let rounded = [
            1.0,
            0.31622776,
            0.081250004,
            0.019764237,
            0.004375,
            0.00079056947,
            0.00025,
            7.905694e-05,
        ];
        agrees(
            &rope(1e4, yarn(4.0, 1024.0, 32.0, 1.0, 1.0, true)),
            rounded,
            1.1386294,
        );
        let smooth = [
            1.0,
            0.11431324,
            0.0019764237,
            0.00035146333,
            6.25e-05,
            1.1114246e-05,
            1.9764234e-06,
            3.5146335e-07,
        ];
        let attn_factor = 1.1217511 / yarn_magnitude(16.0);
        agrees(
            &rope(1e6, yarn(16.0, 256.0, 16.0, 2.0, attn_factor, false)),
            smooth,
            1.1217511,
        );
        let linear = [
            0.5,
            0.15811388,
            0.05,
            0.01581139,
            0.005,
            0.0015811388,
            0.0005,
            0.0001581139,
        ];
        agrees(&rope(1e4, RopeScaling::Linear { factor: 2.0 }), linear, 1.0);
    }

    #[test]
    fn factors_divide() {
        let plain = rope(1e4, RopeScaling::None);
        let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        let (base, divided) = (
            plain.inverse_frequencies(None),
            plain.inverse_frequencies(Some(&factors)),
        );
        for i in 0..8 {
            assert_eq!(divided[i], base[i] / factors[i]);
        }
    }
}
