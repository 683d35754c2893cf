//! Finds a decoder's weights by name and checks them against its `Config`. Invariant: a tensor that is not used is refused,
//! as the file would compute something else.

use crate::arch::Bias;
use crate::config::Config;
use crate::tensors::{Tensor, Tensors};
use crate::weights::{Layer, Matrix, Weights, WeightsError};
use hyprstream_kernels::{Format, decode_row};
use std::collections::HashSet;

/// How a format names its tensors: the name of a layer's part goes after `layer` and its number.
pub(crate) struct Names {
    pub embed: &'static str,
    pub output: &'static str,
    output_norm: &'static str,
    rope_factors: &'static str,
    layer: &'static str,
    attn_norm: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    o: &'static str,
    q_norm: &'static str,
    k_norm: &'static str,
    ffn_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

pub(crate) static GGUF: Names = Names {
    embed: "token_embd.weight",
    output: "output.weight",
    output_norm: "output_norm.weight",
    rope_factors: "rope_freqs.weight",
    layer: "blk",
    attn_norm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    ffn_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
};

pub(crate) static SAFETENSORS: Names = Names {
    embed: "model.embed_tokens.weight",
    output: "lm_head.weight",
    output_norm: "model.norm.weight",
    rope_factors: "rope_freqs.weight",
    layer: "model.layers",
    attn_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    ffn_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

/// Tensors that old converters wrote and nothing needs: the frequencies follow from the description.
const IGNORED_ENDS: [&str; 2] = ["rotary_emb.inv_freq", "attn_rot_embd.weight"];

/// Finds and checks all weights. Without `decode`, only names, shapes and formats: the vectors stay empty.
pub(crate) fn load(
    tensors: &Tensors,
    names: &'static Names,
    config: &Config,
    decode: bool,
) -> Result<Weights, WeightsError> {
    let mut loader = Loader {
        tensors,
        names,
        config,
        decode,
        used: HashSet::new(),
    };
    let (vocab, hidden) = (config.vocab, config.hidden);
    let embed = loader.matrix(names.embed, vocab, hidden)?;
    let output = if config.tied {
        embed.clone()
    } else {
        loader.matrix(names.output, vocab, hidden)?
    };
    let output_norm = loader.vector(names.output_norm, hidden)?;
    let rope_factors = loader.rope_factors()?;
    let layers = (0..config.layers)
        .map(|i| loader.layer(i))
        .collect::<Result<_, _>>()?;
    loader.refuse_unknown()?;
    Ok(Weights {
        embed,
        output,
        output_norm,
        layers,
        rope_factors,
    })
}

struct Loader<'a> {
    tensors: &'a Tensors,
    names: &'static Names,
    config: &'a Config,
    decode: bool,
    used: HashSet<String>,
}

impl<'a> Loader<'a> {
    fn layer(&mut self, i: usize) -> Result<Layer, WeightsError> {
        let (names, config) = (self.names, self.config);
        let name = |part: &str, kind: &str| format!("{}.{i}.{part}.{kind}", names.layer);
        let weight = |part: &str| name(part, "weight");
        let bias = |part: &str| name(part, "bias");
        let (hidden, ffn, head_dim) = (config.hidden, config.ffn, config.head_dim);
        let (q_width, kv_width) = (config.heads * head_dim, config.kv_heads * head_dim);
        let qk_norm = config.arch.qk_norm;
        Ok(Layer {
            attn_norm: self.vector(&weight(names.attn_norm), hidden)?,
            q: self.matrix(&weight(names.q), q_width, hidden)?,
            k: self.matrix(&weight(names.k), kv_width, hidden)?,
            v: self.matrix(&weight(names.v), kv_width, hidden)?,
            q_bias: self.bias(&bias(names.q), q_width)?,
            k_bias: self.bias(&bias(names.k), kv_width)?,
            v_bias: self.bias(&bias(names.v), kv_width)?,
            o: self.matrix(&weight(names.o), hidden, q_width)?,
            q_norm: qk_norm
                .then(|| self.vector(&weight(names.q_norm), head_dim))
                .transpose()?,
            k_norm: qk_norm
                .then(|| self.vector(&weight(names.k_norm), head_dim))
                .transpose()?,
            ffn_norm: self.vector(&weight(names.ffn_norm), hidden)?,
            gate: self.matrix(&weight(names.gate), ffn, hidden)?,
            up: self.matrix(&weight(names.up), ffn, hidden)?,
            down: self.matrix(&weight(names.down), hidden, ffn)?,
        })
    }

    /// A computed tensor of this shape.
    fn find(&mut self, name: &str, wanted: &[usize]) -> Result<(&'a Tensor, Format), WeightsError> {
        let (tensors, arch) = (self.tensors, self.config.arch.name);
        let tensor = || name.to_owned();
        let found = tensors.by_name.get(name).ok_or_else(|| WeightsError::Missing {
            tensor: tensor(),
            arch,
        })?;
        self.used.insert(tensor());
        if without_ones(&found.shape) != without_ones(wanted) {
            let (found, wanted) = (found.shape.clone(), wanted.to_vec());
            return Err(WeightsError::Shape {
                tensor: tensor(),
                found,
                wanted,
            });
        }
        let cols = wanted.last().copied().unwrap_or(1);
        let rows = wanted.iter().rev().skip(1).product::<usize>();
        match found.format {
            Some(f) if f.row_bytes(cols).and_then(|b| b.checked_mul(rows)) == Some(found.range.len()) => {
                Ok((found, f))
            }
            _ => {
                let computed = Format::ALL.map(Format::name).join(", ");
                Err(WeightsError::Format {
                    tensor: tensor(),
                    found: found.kind.clone().into_owned(),
                    computed,
                })
            }
        }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, WeightsError> {
        let (found, format) = self.find(name, &[rows, cols])?;
        Ok(Matrix::new(found, format, rows, cols))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        let (found, format) = self.find(name, &[len])?;
        if !self.decode {
            return Ok(Vec::new());
        }
        let mut values = vec![0.0; len];
        decode_row(format, found.bytes(), &mut values);
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(WeightsError::NotFinite {
                tensor: name.to_owned(),
                index,
                value: values[index],
            }),
            None => Ok(values),
        }
    }

    fn bias(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, WeightsError> {
        let needed = self.config.arch.qkv_bias == Bias::Always;
        let there = needed || self.tensors.by_name.contains_key(name);
        there.then(|| self.vector(name, len)).transpose()
    }

    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>, WeightsError> {
        let name = self.names.rope_factors;
        if !self.tensors.by_name.contains_key(name) {
            return Ok(None);
        }
        let factors = self.vector(name, self.config.rope.dims / 2)?;
        match factors.iter().position(|&f| f <= 0.0) {
            Some(index) => Err(WeightsError::NotFinite {
                tensor: name.to_owned(),
                index,
                value: factors[index],
            }),
            None => Ok(Some(factors)),
        }
    }

    fn refuse_unknown(&self) -> Result<(), WeightsError> {
        let ignored = |name: &str| {
            IGNORED_ENDS.iter().any(|end| name.ends_with(end))
                || (self.config.tied && name == self.names.output)
        };
        let unknown = self
            .tensors
            .by_name
            .keys()
            .filter(|name| !self.used.contains(*name) && !ignored(name));
        match unknown.min() {
            Some(tensor) => Err(WeightsError::Unknown {
                tensor: tensor.clone(),
                arch: self.config.arch.name,
            }),
            None => Ok(()),
        }
    }
}

/// A shape without leading dimensions of one: `[1, 1, n]` is a vector of n.
fn without_ones(shape: &[usize]) -> &[usize] {
    let first = shape.iter().position(|&d| d != 1).unwrap_or(shape.len());
    &shape[first..]
}
