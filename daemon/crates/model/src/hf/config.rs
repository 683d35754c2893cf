//! A `Config` from config.json of `transformers`, older and newer spelling. Invariant: a key that would change the numbers
//! is either honoured or refused.

use crate::arch::{Arch, Bias, WindowRule};
use crate::config::{Config, ConfigError, size};
use crate::gguf::evenly;
use crate::rope::{Rope, RopeScaling, yarn_magnitude};
use hyprstream_kernels::RopeLayout;
use serde_json::Value;

/// What a message shows of a value.
const SHOWN_CHARS_MAX: usize = 60;

/// The keys of one JSON object; null counts as absent.
#[derive(Clone, Copy)]
struct Keys<'a>(&'a Value);

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || ConfigError::WrongType {
            key: key.to_owned(),
            found: shown(value),
            wanted,
        };
        convert(value).map(Some).ok_or_else(wrong)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "an integer of at least 0", |v| v.as_u64().map(size))
    }

    fn needed(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?
            .ok_or_else(|| ConfigError::Missing { key: key.to_owned() })
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        self.typed(key, "a number", |v| v.as_f64().map(|v| v as f32))
    }

    fn needed_f32(&self, key: &str) -> Result<f32, ConfigError> {
        self.f32(key)?
            .ok_or_else(|| ConfigError::Missing { key: key.to_owned() })
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Refuses anything but absence and `false`.
    fn refuse(&self, key: &str, computed: &'static str) -> Result<(), ConfigError> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) => Err(ConfigError::Unsupported {
                key: key.to_owned(),
                value: shown(value),
                computed,
            }),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(o) => format!("an object of {} keys", o.len()),
        scalar => scalar.to_string(),
    };
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// Reads the description. `has_output` is whether the weights hold an output matrix, which decides where the file does
/// not say if it is tied.
pub(super) fn read(json: &Value, has_output: bool) -> Result<Config, ConfigError> {
    let keys = Keys(json);
    let name = keys.str("model_type")?.ok_or_else(|| ConfigError::Missing {
        key: "model_type".to_owned(),
    })?;
    let unknown = || ConfigError::Arch {
        name: name.to_owned(),
        known: Arch::names(),
    };
    let arch = Arch::by_hf_name(name).ok_or_else(unknown)?;
    refuse_uncomputed(&keys, arch)?;
    let (hidden, heads) = (keys.needed("hidden_size")?, keys.needed("num_attention_heads")?);
    let head_dim = match keys.size("head_dim")?.or(arch.head_dim_default) {
        Some(given) => given,
        None => evenly(hidden, heads)?,
    };
    let context = keys.needed("max_position_embeddings")?;
    let config = Config {
        arch,
        hidden,
        layers: keys.needed("num_hidden_layers")?,
        heads,
        kv_heads: keys.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: keys.needed("intermediate_size")?,
        vocab: keys.needed("vocab_size")?,
        context,
        norm_eps: keys.f32("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(&keys, head_dim, context)?,
        tied: keys.bool("tie_word_embeddings")?.unwrap_or(!has_output),
        windows: Vec::new(),
    };
    // The list is made once the number of layers is known to be sane.
    let mut config = config.check()?;
    config.windows = windows(&keys, arch, config.layers)?;
    config.check()
}

fn refuse_uncomputed(keys: &Keys<'_>, arch: &Arch) -> Result<(), ConfigError> {
    match keys.str("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            let (key, value) = ("hidden_act".to_owned(), format!("{other:?}"));
            return Err(ConfigError::Unsupported {
                key,
                value,
                computed: "silu",
            });
        }
    }
    keys.refuse("mlp_bias", "feed-forward layers without bias")?;
    if arch.qkv_bias == Bias::Optional {
        keys.refuse("attention_bias", "attention without a bias on its output")?;
    }
    keys.refuse(
        "quantization_config",
        "F32, F16 and BF16 safetensors; use a GGUF file for quantised weights",
    )
}

fn windows(keys: &Keys<'_>, arch: &Arch, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    match arch.window {
        WindowRule::Never => Ok(vec![None; layers]),
        WindowRule::EveryLayer(default) => {
            // Here null is not the same as absent.
            let window = if keys.0.get("sliding_window").is_some() {
                keys.size("sliding_window")?
            } else {
                Some(default)
            };
            Ok(vec![window; layers])
        }
        WindowRule::UpperLayers => upper_windows(keys, layers),
    }
}

fn upper_windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let used = keys.bool("use_sliding_window")?.unwrap_or(false);
    let window = if keys.0.get("sliding_window").is_some() {
        keys.size("sliding_window")?
    } else {
        Some(4096)
    };
    let window = window.filter(|_| used);
    let Some(types) = keys.typed("layer_types", "an array", Value::as_array)? else {
        let from = keys.size("max_window_layers")?.unwrap_or(28);
        return Ok((0..layers)
            .map(|layer| window.filter(|_| layer >= from))
            .collect());
    };
    if types.len() != layers {
        let found = types.len();
        return Err(ConfigError::Mismatch(format!(
            "layer_types has {found} entries for {layers} layers"
        )));
    }
    let of_type = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(ConfigError::Mismatch(
            "layer_types has sliding_attention, but there is no window".to_owned(),
        )),
        _ => {
            let (key, value) = ("layer_types".to_owned(), shown(value));
            let computed = "full_attention and sliding_attention";
            Err(ConfigError::Unsupported { key, value, computed })
        }
    };
    types.iter().map(of_type).collect()
}

fn rope(keys: &Keys<'_>, head_dim: usize, context: usize) -> Result<Rope, ConfigError> {
    let object = |key| keys.typed(key, "an object", |v| v.is_object().then_some(v));
    let nothing = Value::Null;
    // Newer files have everything in `rope_parameters`, older ones the base beside `rope_scaling`.
    let part = Keys(
        object("rope_parameters")?
            .or(object("rope_scaling")?)
            .unwrap_or(&nothing),
    );
    let theta = part
        .f32("rope_theta")?
        .or(keys.f32("rope_theta")?)
        .unwrap_or(10_000.0);
    let partial = part
        .f32("partial_rotary_factor")?
        .or(keys.f32("partial_rotary_factor")?)
        .unwrap_or(1.0);
    // Truncated, as transformers does; a saturating cast takes NaN and nonsense to sizes that `check` refuses.
    let dims = (head_dim as f64 * f64::from(partial)) as usize;
    let kind = match part.str("rope_type")? {
        Some(kind) => kind,
        None => part.str("type")?.unwrap_or("default"),
    };
    let original = match keys.f32("original_max_position_embeddings")? {
        Some(given) => given,
        None => part
            .f32("original_max_position_embeddings")?
            .unwrap_or(context as f32),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: part.needed_f32("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: part.needed_f32("factor")?,
            low: part.needed_f32("low_freq_factor")?,
            high: part.needed_f32("high_freq_factor")?,
            original,
        },
        "yarn" => yarn(&part, original, context)?,
        other => {
            let (key, value) = ("rope_type".to_owned(), format!("{other:?}"));
            let computed = "default, linear, llama3 and yarn";
            return Err(ConfigError::Unsupported { key, value, computed });
        }
    };
    if let Some(nested) = part
        .0
        .as_object()
        .and_then(|o| o.iter().find(|(_, v)| v.is_object()))
    {
        let (key, value) = (format!("rope_parameters.{}", nested.0), shown(nested.1));
        return Err(ConfigError::Unsupported {
            key,
            value,
            computed: "one rotary embedding for all layers",
        });
    }
    Ok(Rope {
        dims,
        theta,
        layout: RopeLayout::Half,
        scaling,
    })
}

fn yarn(part: &Keys<'_>, original: f32, context: usize) -> Result<RopeScaling, ConfigError> {
    let factor = part.f32("factor")?.unwrap_or(context as f32 / original);
    let magnitude = |weight: f32| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * weight * factor.ln() + 1.0
        }
    };
    let given = |key| Ok::<_, ConfigError>(part.f32(key)?.filter(|&v| v != 0.0));
    let total = match (
        part.f32("attention_factor")?,
        given("mscale")?,
        given("mscale_all_dim")?,
    ) {
        (Some(total), ..) => total,
        (None, Some(one), Some(all)) => magnitude(one) / magnitude(all),
        _ => yarn_magnitude(factor),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original,
        beta_fast: given("beta_fast")?.unwrap_or(32.0),
        beta_slow: given("beta_slow")?.unwrap_or(1.0),
        ext_factor: 1.0,
        // Stored as GGML does: the magnitude is multiplied in again where it is used.
        attn_factor: total / yarn_magnitude(factor),
        truncate: part.bool("truncate")?.unwrap_or(true),
    })
}
