//! A tokenizer from Hugging Face's tokenizer.json and tokenizer_config.json.
//! Invariant: ids are those of the file, and lie below `TOKENS_MAX`; parts that are not understood are refused by name.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::models::bpe::Vocab;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    AddedToken, Encoding, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Token,
};

use super::bpe::{self, BpeRules};
use super::ends::end_ids;
use super::growth::{check_normalizer, check_post_processor};
use super::pieces::{self, Kind, Pieces};
use super::pipeline::{Merger, Pipeline};
use super::split::{Cut, Stage};
use super::{Parts, TOKEN_BYTES_MAX, TOKENS_MAX, Tokenizer, TokenizerError};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelPart,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Entries,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// Texts and ids in the file's order; nothing for models whose vocabulary is not a map (they are refused by name).
#[derive(Default)]
struct Entries(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entries::default())
            }
        }
        from.deserialize_any(Read)
    }
}

/// `"a b"` or `["a", "b"]`; nothing for anything else.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens, as a list or with a space between")
            }
            fn visit_str<E>(self, text: &str) -> Result<Merge, E> {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                Ok(Merge(
                    pair.map(|(left, right)| (left.to_owned(), right.to_owned())),
                ))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let (left, right) = (seq.next_element()?, seq.next_element()?);
                let more = seq.next_element::<IgnoredAny>()?.is_some();
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Merge(left.zip(right).filter(|_| !more)))
            }
        }
        from.deserialize_any(Read)
    }
}

/// How tokens become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoding {
    /// One character a byte.
    ByteLevel,
    /// U+2581 for spaces, `<0x0A>` for bytes; the first space may go.
    Spm { strips_space: bool },
}

/// The tokenizer of a tokenizer.json, with what tokenizer_config.json adds.
pub(super) fn build(json: &[u8], config: Option<&Value>) -> Result<Tokenizer, TokenizerError> {
    let file: File = serde_json::from_slice(json).map_err(|e| TokenizerError::Json(e.to_string()))?;
    let File {
        added_tokens,
        normalizer,
        pre_tokenizer,
        post_processor,
        decoder,
        model,
    } = file;
    refuse_other_models(&model)?;
    normalizer.as_ref().map_or(Ok(()), check_normalizer)?;
    post_processor.as_ref().map_or(Ok(()), check_post_processor)?;
    let normalizer = part::<NormalizerWrapper>(normalizer)?;
    let post_processor = part::<PostProcessorWrapper>(post_processor)?;
    let decoding = decoding(decoder.as_ref())?;
    let pieces = pieces(&model.vocab.0, &added_tokens, decoding)?;
    let stages = stages(pre_tokenizer)?;

    let mut merges = Vec::with_capacity(model.merges.len());
    for (index, merge) in model.merges.into_iter().enumerate() {
        let reason = || "it is not two tokens".into();
        merges.push(merge.0.ok_or_else(|| TokenizerError::BadMerge {
            index,
            reason: reason(),
        })?);
    }
    let rules = BpeRules {
        unk_token: model.unk_token,
        fuse_unk: model.fuse_unk,
        byte_fallback: model.byte_fallback,
        ignore_merges: model.ignore_merges,
    };
    let vocab: Vocab = model.vocab.0.into_iter().collect();
    let bpe = bpe::build(vocab, merges, rules)?;
    let ids: HashMap<String, u32> = added_tokens
        .iter()
        .map(|a| (a.token.content.clone(), a.id))
        .collect();
    let pipeline = Pipeline::new(
        Merger::Bpe(bpe),
        normalizer,
        stages,
        added_tokens.into_iter().map(|a| a.token).collect(),
    )?;
    for (text, id) in &ids {
        // The crate numbers added tokens itself; a file with gaps would get other ids than it says.
        if pipeline.added_id(text).is_some_and(|given| given != *id) {
            let what = format!("the added token {:?}", text.chars().take(80).collect::<String>());
            return Err(TokenizerError::IdOutOfRange {
                what,
                id: *id,
                vocab: pieces.len(),
            });
        }
    }
    let bos = named(config, "bos_token", &ids);
    let eos = named(config, "eos_token", &ids);
    let (mut prefix, mut suffix) = around(post_processor.as_ref(), pieces.len())?;
    if prefix.is_empty() && flag(config, "add_bos_token") {
        prefix.extend(bos);
    }
    if suffix.is_empty() && flag(config, "add_eos_token") {
        suffix.extend(eos);
    }
    Ok(Tokenizer::assemble(Parts {
        kind: if decoding == Decoding::ByteLevel {
            "bpe"
        } else {
            "spm"
        },
        pipeline,
        pieces,
        bos,
        eos,
        prefix,
        suffix,
        ends: end_ids(&[eos], |text| ids.get(text).copied()),
        strips_space: decoding == (Decoding::Spm { strips_space: true }),
    }))
}

fn part<T: serde::de::DeserializeOwned>(value: Option<Value>) -> Result<Option<T>, TokenizerError> {
    let parsed = value.map(serde_json::from_value).transpose();
    parsed.map_err(|e| TokenizerError::Json(e.to_string()))
}

fn refuse_other_models(model: &ModelPart) -> Result<(), TokenizerError> {
    // Files older than the field are told apart by their merges.
    let kind = model
        .kind
        .as_deref()
        .unwrap_or(if model.merges.is_empty() { "unnamed" } else { "BPE" });
    if kind != "BPE" {
        let found = kind.chars().take(80).collect();
        return Err(TokenizerError::UnsupportedModel {
            found,
            supported: "BPE",
        });
    }
    let affix = |name: &Option<String>| name.as_ref().is_some_and(|text| !text.is_empty());
    let part = if affix(&model.continuing_subword_prefix) {
        "continuing_subword_prefix"
    } else if affix(&model.end_of_word_suffix) {
        "end_of_word_suffix"
    } else if model.dropout.is_some_and(|p| p != 0.0) {
        "dropout"
    } else {
        return Ok(());
    };
    Err(TokenizerError::UnsupportedPart {
        part,
        found: "set".into(),
        supported: "BPE without it",
    })
}

/// Bytes and kinds by id.
fn pieces(vocab: &[(String, u32)], added: &[Added], decoding: Decoding) -> Result<Pieces, TokenizerError> {
    let ids = vocab.iter().map(|(_, id)| *id).chain(added.iter().map(|a| a.id));
    let count = ids.max().ok_or(TokenizerError::Empty)? as usize + 1;
    if count > TOKENS_MAX {
        return Err(TokenizerError::TooMany {
            what: "token ids",
            count,
            max: TOKENS_MAX,
        });
    }
    let mut by_id: Vec<Option<(&str, Kind)>> = vec![None; count];
    for (text, id) in vocab {
        if let Some(slot) = by_id.get_mut(*id as usize)
            && slot.replace((text, Kind::Text)).is_some()
        {
            return Err(TokenizerError::DuplicateId { id: *id });
        }
    }
    for Added { id, token } in added {
        let kind = if token.special {
            Kind::Control
        } else {
            Kind::UserDefined
        };
        if let Some(slot) = by_id.get_mut(*id as usize)
            && slot
                .replace((&token.content, kind))
                .is_some_and(|(text, _)| text != token.content)
        {
            return Err(TokenizerError::DuplicateId { id: *id });
        }
    }
    let mut pieces = Pieces::with_capacity(count);
    for (id, slot) in (0u32..).zip(by_id) {
        let (text, kind) = slot.unwrap_or(("", Kind::Absent));
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenizerError::TokenTooLong {
                id,
                len: text.len(),
                max: TOKEN_BYTES_MAX,
            });
        }
        pieces.push(kind, |out| match (kind, decoding) {
            (Kind::Text, Decoding::ByteLevel) => pieces::push_byte_level(text, out),
            (Kind::Text, Decoding::Spm { .. }) => match pieces::byte_token(text) {
                Some(byte) => out.push(byte),
                None => pieces::push_spm(text, out),
            },
            (Kind::UserDefined, Decoding::Spm { .. }) => pieces::push_spm(text, out),
            _ => out.extend_from_slice(text.as_bytes()),
        })?;
    }
    Ok(pieces)
}

/// Steps of pre-tokenization; cuts by pattern become our own, which are bounded in time.
fn stages(pre: Option<Value>) -> Result<Vec<Stage>, TokenizerError> {
    let Some(pre) = pre else { return Ok(Vec::new()) };
    match pre.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let Some(Value::Array(steps)) = pre.get("pretokenizers") else {
                return Err(TokenizerError::Json(
                    "pre_tokenizer: a Sequence without pretokenizers".into(),
                ));
            };
            let mut all = Vec::new();
            for step in steps {
                all.extend(stages(Some(step.clone()))?);
            }
            Ok(all)
        }
        Some("Split") => {
            #[derive(Deserialize)]
            struct Split {
                pattern: SplitPattern,
                behavior: SplitDelimiterBehavior,
                #[serde(default)]
                invert: bool,
            }
            let split: Split = from_value(pre)?;
            let pattern = match split.pattern {
                SplitPattern::Regex(pattern) => pattern,
                SplitPattern::String(text) => fancy_regex::escape(&text).into_owned(),
            };
            Ok(vec![Stage::Cut(Cut::new(
                &pattern,
                split.behavior,
                split.invert,
            )?)])
        }
        _ => Ok(vec![Stage::Other(Box::new(from_value::<PreTokenizerWrapper>(
            pre,
        )?))]),
    }
}

fn from_value<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, TokenizerError> {
    serde_json::from_value(value).map_err(|e| TokenizerError::Json(format!("pre_tokenizer: {e}")))
}

/// How the file's decoder makes text of tokens.
fn decoding(decoder: Option<&Value>) -> Result<Decoding, TokenizerError> {
    let refuse = |found: &str| TokenizerError::UnsupportedPart {
        part: "decoder",
        found: found.chars().take(80).collect(),
        supported: "ByteLevel, Metaspace, and the steps Replace, ByteFallback, Fuse and Strip of SentencePiece",
    };
    let name = |step: &Value| {
        step.get("type")
            .and_then(Value::as_str)
            .unwrap_or("none")
            .to_owned()
    };
    let decoder = decoder.ok_or_else(|| refuse("none"))?;
    let one = std::slice::from_ref(decoder);
    let steps = match decoder.get("decoders") {
        Some(Value::Array(steps)) => steps.as_slice(),
        _ => one,
    };
    let mut spm = false;
    let mut strips_space = false;
    for step in steps {
        match name(step).as_str() {
            "ByteLevel" if steps.len() == 1 => return Ok(Decoding::ByteLevel),
            "ByteFallback" | "Fuse" => {}
            "Replace" => {
                let from = step.pointer("/pattern/String").and_then(Value::as_str);
                let to = step.get("content").and_then(Value::as_str);
                if (from, to) != (Some("\u{2581}"), Some(" ")) {
                    return Err(refuse("Replace with another pattern"));
                }
                spm = true;
            }
            "Strip" => {
                let number = |key: &str| step.get(key).and_then(Value::as_u64);
                let content = step.get("content").and_then(Value::as_str);
                match (content, number("start"), number("stop")) {
                    (Some(" "), Some(start @ 0..=1), Some(0)) => strips_space |= start == 1,
                    _ => return Err(refuse("Strip of other than one space at the start")),
                }
            }
            "Metaspace" => {
                let scheme = step.get("prepend_scheme").and_then(Value::as_str);
                let prefix = step
                    .get("add_prefix_space")
                    .and_then(Value::as_bool)
                    .unwrap_or(true);
                strips_space |= scheme.map_or(prefix, |scheme| scheme != "never");
                spm = true;
            }
            other => return Err(refuse(other)),
        }
    }
    if spm {
        Ok(Decoding::Spm { strips_space })
    } else {
        Err(refuse("a list that makes no text"))
    }
}

/// The id of a special token that tokenizer_config.json names.
fn named(config: Option<&Value>, key: &str, ids: &HashMap<String, u32>) -> Option<u32> {
    let value = config?.get(key)?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    ids.get(text).copied()
}

fn flag(config: Option<&Value>, key: &str) -> bool {
    config
        .and_then(|config| config.get(key))
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// What the post-processor puts before and after a text.
fn around(
    processor: Option<&PostProcessorWrapper>,
    vocab: usize,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let Some(processor) = processor else {
        return Ok((Vec::new(), Vec::new()));
    };
    const TEXT: u32 = u32::MAX;
    let text = Encoding::from_tokens(
        vec![Token {
            id: TEXT,
            value: "a".into(),
            offsets: (0, 1),
        }],
        0,
    );
    let done = processor
        .process(text, None, true)
        .map_err(|e| TokenizerError::Library(e.to_string()))?;
    let mut parts = done.get_ids().split(|id| *id == TEXT).map(<[u32]>::to_vec);
    let (before, after) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if parts.next().is_some() {
        return Err(TokenizerError::UnsupportedPart {
            part: "post_processor",
            found: "a template that repeats the text".into(),
            supported: "templates with the text once",
        });
    }
    if let Some(id) = before.iter().chain(&after).find(|id| **id as usize >= vocab) {
        let what = "a token of the post_processor".into();
        return Err(TokenizerError::IdOutOfRange { what, id: *id, vocab });
    }
    Ok((before, after))
}
