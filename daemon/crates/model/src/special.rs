//! The ids of tokens with a meaning. Invariant: every id is inside the vocabulary; what the file gives outside it counts
//! as absent, as converters write -1 or nonsense for "none".

use crate::gguf::{GgufError, Metadata};
use serde_json::Value;

/// Ids of tokens with a meaning to the loop around the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text; the first, if there are several.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Ends a message that waits for a tool.
    pub eom: Option<u32>,
    /// Fills batches up.
    pub pad: Option<u32>,
    /// Whether texts are to begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts are to end with `eos`.
    pub add_eos: Option<bool>,
    /// Every id that ends an answer, ascending.
    pub ends: Vec<u32>,
}

impl SpecialIds {
    /// Whether this token ends an answer.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    pub(crate) fn from_gguf(metadata: &Metadata, vocab: usize) -> Result<SpecialIds, GgufError> {
        let id = |name: &str| {
            let id = metadata.uint(&format!("tokenizer.ggml.{name}_token_id"));
            // A signed -1 is "none" too.
            id.map(|id| id.and_then(|id| inside(id, vocab)))
                .or_else(|e| match e {
                    GgufError::WrongKind { .. } => Ok(None),
                    e => Err(e),
                })
        };
        let (eos, eot, eom) = (id("eos")?, id("eot")?, id("eom")?);
        let mut special = SpecialIds {
            bos: id("bos")?,
            eos,
            eot,
            eom,
            pad: id("padding")?,
            ..Self::default()
        };
        special.add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?;
        special.add_eos = metadata.bool("tokenizer.ggml.add_eos_token")?;
        special.set_ends(eos.into_iter().chain(eot).chain(eom));
        Ok(special)
    }

    /// From generation_config.json, else config.json; and tokenizer_config.json.
    pub(crate) fn from_hf(
        generation: Option<&Value>,
        config: &Value,
        tokenizer: Option<&Value>,
        vocab: usize,
    ) -> SpecialIds {
        let ids = |key: &str| {
            let given = |json: &Value| json.get(key).filter(|v| !v.is_null()).cloned();
            let value = generation.and_then(given).or_else(|| given(config));
            ids_in(value.as_ref(), vocab)
        };
        let flag = |key: &str| tokenizer.and_then(|json| json.get(key)).and_then(Value::as_bool);
        let ends = ids("eos_token_id");
        let mut special = SpecialIds {
            bos: ids("bos_token_id").first().copied(),
            eos: ends.first().copied(),
            pad: ids("pad_token_id").first().copied(),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            ..Self::default()
        };
        special.set_ends(ends);
        special
    }

    fn set_ends(&mut self, ends: impl IntoIterator<Item = u32>) {
        self.ends = ends.into_iter().collect();
        self.ends.sort_unstable();
        self.ends.dedup();
    }
}

/// One id or a list of them.
fn ids_in(value: Option<&Value>, vocab: usize) -> Vec<u32> {
    let list = match value {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter().filter_map(|v| inside(v.as_u64()?, vocab)).collect()
}

fn inside(id: u64, vocab: usize) -> Option<u32> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < vocab)
}
