//! The shape of a network. Invariant: every `Config` passed `check`, so its sizes multiply without overflow and its
//! numbers are finite; what the file says and is not computed was refused by name.

use crate::arch::Arch;
use crate::rope::{Rope, RopeScaling};

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its row in the table.
    pub arch: &'static Arch,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the gated part.
    pub ffn: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Added under the root of every norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// For each layer, how many tokens it sees, itself included; `None`: all.
    pub windows: Vec<Option<usize>>,
}

/// Why a model's description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No row in the table.
    #[error("the architecture is {name:?}; hyprstream computes {known}")]
    Arch {
        /// What the file says.
        name: String,
        /// What there is.
        known: String,
    },
    /// A key that must be there.
    #[error("{key} is missing; the model was not converted completely")]
    Missing {
        /// The key.
        key: String,
    },
    /// A value of the wrong type.
    #[error("{key} is {found}, not {wanted}")]
    WrongType {
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Too small, too large or no number.
    #[error("{key} is {value}; it must be from {min} to {max}")]
    Range {
        /// What it is.
        key: &'static str,
        /// Its value.
        value: f64,
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// Two values that do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// Something that would change the numbers and is not computed.
    #[error("{key} is {value}; hyprstream computes {computed}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What could stand there.
        computed: &'static str,
    },
    /// Metadata of the wrong type.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
}

/// Largest sizes of each kind: well above any model that one machine could hold, and small enough that products of three
/// of them fit 64 bits.
const HIDDEN_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 1024;
const HEADS_MAX: usize = 1 << 14;
const HEAD_DIM_MAX: usize = 1 << 12;
const FFN_MAX: usize = 1 << 22;
const VOCAB_MAX: usize = 1 << 24;
const CONTEXT_MAX: usize = 1 << 28;

impl Config {
    /// Checks every number against its limits.
    pub(crate) fn check(self) -> Result<Config, ConfigError> {
        let sizes = [
            ("the hidden size", self.hidden, HIDDEN_MAX),
            ("the number of layers", self.layers, LAYERS_MAX),
            ("the number of heads", self.heads, HEADS_MAX),
            ("the number of key and value heads", self.kv_heads, self.heads),
            ("the width of a head", self.head_dim, HEAD_DIM_MAX),
            ("the feed-forward size", self.ffn, FFN_MAX),
            ("the vocabulary", self.vocab, VOCAB_MAX),
            ("the context length", self.context, CONTEXT_MAX),
            ("the rotary width", self.rope.dims, self.head_dim),
        ];
        for (key, value, max) in sizes {
            within(key, value as f64, 1.0, max as f64)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(ConfigError::Mismatch(format!(
                "{heads} heads cannot share {kv_heads} key and value heads evenly"
            )));
        }
        if !self.rope.dims.is_multiple_of(2) {
            let dims = self.rope.dims;
            return Err(ConfigError::Mismatch(format!(
                "{dims} rotary values cannot be paired"
            )));
        }
        for window in self.windows.iter().flatten() {
            within("the attention window", *window as f64, 1.0, CONTEXT_MAX as f64)?;
        }
        within("the norm's epsilon", self.norm_eps.into(), 0.0, 1.0)?;
        check_rope(&self.rope)?;
        Ok(self)
    }
}

fn check_rope(rope: &Rope) -> Result<(), ConfigError> {
    let (least, most) = (1e-3, 1e6);
    within(
        "rope theta",
        rope.theta.into(),
        1.0 + f64::from(f32::EPSILON),
        1e12,
    )?;
    match rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => within("the rope factor", factor.into(), least, most)?,
        RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => {
            within("the rope factor", factor.into(), least, most)?;
            within("low_freq_factor", low.into(), least, most)?;
            within("high_freq_factor", high.into(), f64::from(low) + 1e-6, most)?;
            within(
                "the original context length",
                original.into(),
                1.0,
                CONTEXT_MAX as f64,
            )?;
        }
        RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            ext_factor,
            attn_factor,
            ..
        } => {
            within("the rope factor", factor.into(), least, most)?;
            within(
                "the original context length",
                original.into(),
                1.0,
                CONTEXT_MAX as f64,
            )?;
            within("beta_fast", beta_fast.into(), least, most)?;
            within("beta_slow", beta_slow.into(), least, most)?;
            within("yarn_ext_factor", ext_factor.into(), 0.0, 1.0)?;
            within("the rope attention factor", attn_factor.into(), least, most)?;
        }
    }
    Ok(())
}

/// NaN is outside every range.
fn within(key: &'static str, value: f64, min: f64, max: f64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Range { key, value, min, max })
    }
}

/// A size from a file's integer; what does not fit a machine word is as out of range as any other.
pub(crate) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
