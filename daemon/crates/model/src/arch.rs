//! The table of architectures. Invariant: what differs between them is a field here, never a branch on a name elsewhere.

use hyprstream_kernels::RopeLayout;

/// One family of decoders.
#[derive(Debug, PartialEq)]
pub struct Arch {
    /// Its name, which is also its key in GGUF metadata.
    pub name: &'static str,
    /// Its `model_type` in config.json; empty where only GGUF uses this row.
    pub hf_names: &'static [&'static str],
    /// Queries and keys are normalised per head, before they turn.
    pub qk_norm: bool,
    /// Queries, keys and values have a bias.
    pub qkv_bias: Bias,
    /// Which values turn together in GGUF files. In safetensors it is always `Half`: GGUF permutes the rows of some.
    pub gguf_rope: RopeLayout,
    /// Which layers see a window only, in config.json.
    pub window: WindowRule,
    /// The head's width where config.json does not give one; `None`: hidden size over heads.
    pub head_dim_default: Option<usize>,
}

/// Whether a bias is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// In files of some models.
    Optional,
    /// In every file.
    Always,
}

/// What config.json's window applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRule {
    /// There is none.
    Never,
    /// `sliding_window` for every layer, unless null. The value is the default of an absent key.
    EveryLayer(usize),
    /// `layer_types`, else layers from `max_window_layers` on, if `use_sliding_window`.
    UpperLayers,
}

/// Every architecture that is computed. Mistral's GGUF files say `llama`.
pub static ARCHS: [Arch; 4] = [
    Arch {
        name: "llama",
        hf_names: &["llama"],
        qk_norm: false,
        qkv_bias: Bias::Optional,
        gguf_rope: RopeLayout::Interleaved,
        window: WindowRule::Never,
        head_dim_default: None,
    },
    Arch {
        name: "mistral",
        hf_names: &["mistral"],
        qk_norm: false,
        qkv_bias: Bias::Optional,
        gguf_rope: RopeLayout::Interleaved,
        window: WindowRule::EveryLayer(4096),
        head_dim_default: None,
    },
    Arch {
        name: "qwen2",
        hf_names: &["qwen2"],
        qk_norm: false,
        qkv_bias: Bias::Always,
        gguf_rope: RopeLayout::Half,
        window: WindowRule::UpperLayers,
        head_dim_default: None,
    },
    Arch {
        name: "qwen3",
        hf_names: &["qwen3"],
        qk_norm: true,
        qkv_bias: Bias::Optional,
        gguf_rope: RopeLayout::Half,
        window: WindowRule::UpperLayers,
        head_dim_default: Some(128),
    },
];

impl Arch {
    /// The row of GGUF's `general.architecture`.
    pub fn by_gguf_name(name: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|a| a.name == name)
    }

    /// The row of config.json's `model_type`.
    pub fn by_hf_name(name: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|a| a.hf_names.contains(&name))
    }

    /// Every name, for messages.
    pub fn names() -> String {
        ARCHS.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
    }
}
