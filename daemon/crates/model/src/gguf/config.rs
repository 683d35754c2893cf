//! A `Config` from GGUF metadata. Invariant: a key that would change the numbers is either honoured or refused.

use super::Metadata;
use crate::arch::Arch;
use crate::config::{Config, ConfigError, size};
use crate::rope::{Rope, RopeScaling};

/// Keys of parts that are not computed: not zero means that the file has them.
const REFUSED: [(&str, &str); 7] = [
    ("expert_count", "models without experts"),
    ("attention.sliding_window_pattern", "one window for all layers"),
    ("attn_logit_softcapping", "models without soft capping"),
    ("final_logit_softcapping", "models without soft capping"),
    ("logit_scale", "models without scaled logits"),
    ("residual_scale", "models without scaled residuals"),
    ("embedding_scale", "models without scaled embeddings"),
];

/// Keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'static Arch,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        Ok(self.metadata.uint_or_equal(&self.name(key))?.map(size))
    }

    fn needed(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?
            .ok_or_else(|| ConfigError::Missing { key: self.name(key) })
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        Ok(self.metadata.f32(&self.name(key))?)
    }

    fn refuse_uncomputed(&self) -> Result<(), ConfigError> {
        for (key, computed) in REFUSED {
            use super::Value::{Float, Signed, Unsigned};
            match self.metadata.get(&self.name(key)) {
                None | Some(Unsigned(0) | Signed(0)) => {}
                // A scale of 1 changes nothing, nor does a cap of 0.
                Some(Float(v)) if v == 0.0 || (v == 1.0 && key.ends_with("scale")) => {}
                Some(value) => {
                    let (key, value) = (self.name(key), value.describe());
                    return Err(ConfigError::Unsupported { key, value, computed });
                }
            }
        }
        Ok(())
    }

    fn rope(&self, head_dim: usize, context: usize) -> Result<Rope, ConfigError> {
        let theta = self.f32("rope.freq_base")?.unwrap_or(10_000.0);
        let dims = self.size("rope.dimension_count")?.unwrap_or(head_dim);
        let factor = self.f32("rope.scaling.factor")?;
        let kind_key = self.name("rope.scaling.type");
        let scaling = match self.metadata.str(&kind_key)? {
            // Files from before the type was written have a linear scale only.
            None => match self
                .f32("rope.scale_linear")?
                .or(factor)
                .filter(|&f| f != 0.0 && f != 1.0)
            {
                Some(factor) => RopeScaling::Linear { factor },
                None => RopeScaling::None,
            },
            Some("none") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: factor.filter(|&f| f != 0.0).unwrap_or(1.0),
            },
            Some("yarn") => self.yarn(factor.unwrap_or(1.0), context)?,
            Some(other) => {
                let (key, value) = (kind_key.clone(), format!("{other:?}"));
                return Err(ConfigError::Unsupported {
                    key,
                    value,
                    computed: "none, linear and yarn",
                });
            }
        };
        Ok(Rope {
            dims,
            theta,
            layout: self.arch.gguf_rope,
            scaling,
        })
    }

    fn yarn(&self, factor: f32, context: usize) -> Result<RopeScaling, ConfigError> {
        let original = self
            .size("rope.scaling.original_context_length")?
            .unwrap_or(context) as f32;
        let attn_factor = match self.f32("rope.scaling.attn_factor")? {
            Some(given) => given,
            None => self.f32("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: self.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            // GGML writes a negative number for "as the type says"; NaN is left for `check` to refuse.
            ext_factor: self
                .f32("rope.scaling.yarn_ext_factor")?
                .filter(|&f| f >= 0.0 || f.is_nan())
                .unwrap_or(1.0),
            attn_factor,
            truncate: true,
        })
    }
}

/// Reads the description. `vocab` is the number of rows of the embedding, `tied` whether there is no output matrix.
pub(crate) fn read(metadata: &Metadata, vocab: usize, tied: bool) -> Result<Config, ConfigError> {
    let key = || "general.architecture".to_owned();
    let name = metadata
        .str(&key())?
        .ok_or_else(|| ConfigError::Missing { key: key() })?;
    let unknown = || ConfigError::Arch {
        name: name.to_owned(),
        known: Arch::names(),
    };
    let keys = Keys {
        metadata,
        arch: Arch::by_gguf_name(name).ok_or_else(unknown)?,
    };
    keys.refuse_uncomputed()?;
    let (hidden, heads) = (
        keys.needed("embedding_length")?,
        keys.needed("attention.head_count")?,
    );
    let layers = keys.needed("block_count")?;
    let context = keys.needed("context_length")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(given) => given,
        None => evenly(hidden, heads)?,
    };
    if let Some(value_dim) = keys.size("attention.value_length")?.filter(|&v| v != head_dim) {
        return Err(ConfigError::Mismatch(format!(
            "keys have {head_dim} values a head and values {value_dim}; hyprstream computes equal ones only"
        )));
    }
    let eps_key = keys.name("attention.layer_norm_rms_epsilon");
    let norm_eps = metadata
        .f32(&eps_key)?
        .ok_or(ConfigError::Missing { key: eps_key })?;
    let window = keys.size("attention.sliding_window")?.filter(|&w| w > 0);
    let config = Config {
        arch: keys.arch,
        hidden,
        layers,
        heads,
        kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: keys.needed("feed_forward_length")?,
        vocab,
        context,
        norm_eps,
        rope: keys.rope(head_dim, context)?,
        tied,
        windows: Vec::new(),
    };
    // The list is made once the number of layers is known to be sane.
    let mut config = config.check()?;
    config.windows = vec![window; config.layers];
    config.check()
}

/// A head's width where the file gives none.
pub(crate) fn evenly(hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    match hidden.checked_rem(heads) {
        Some(0) => Ok(hidden / heads),
        _ => Err(ConfigError::Mismatch(format!(
            "a hidden size of {hidden} cannot be split over {heads} heads"
        ))),
    }
}
