//! A tokenizer from the vocabulary in a GGUF file.
//! Invariant: a token's id is its place in the list; nothing is renumbered, and no list is trusted.

use std::collections::HashMap;

use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::NFC;
use tokenizers::{AddedToken, NormalizerWrapper};

use super::bpe::{self, BpeRules};
use super::ends::end_ids;
use super::pieces::{self, Kind, Pieces};
use super::pipeline::{Merger, Pipeline};
use super::split::Pre;
use super::spm::Spm;
use super::{Parts, TOKEN_BYTES_MAX, TOKENS_MAX, Tokenizer, TokenizerError};

/// The part of a GGUF file's metadata that makes a tokenizer; the field names are those of `tokenizer.ggml.*`.
#[derive(Debug, Default, Clone)]
pub struct GgufVocab<'a> {
    /// `general.architecture`.
    pub arch: Option<&'a str>,
    /// `model`: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: &'a str,
    /// `pre`: how text is cut into words; only BPE needs it.
    pub pre: Option<&'a str>,
    /// `tokens`: text by id.
    pub tokens: Vec<&'a str>,
    /// `scores`: by id; only SentencePiece needs them.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: by id; 1 text, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i64>>,
    /// `merges`: pairs with a space between, best first; only BPE needs them.
    pub merges: Option<Vec<&'a str>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// `token_type` of the unknown token.
const UNKNOWN: i64 = 2;
/// `token_type` of marks for the model.
const CONTROL: i64 = 3;
/// `token_type` of text that is matched as a whole.
const USER_DEFINED: i64 = 4;
/// `token_type` of byte tokens.
const BYTE: i64 = 6;

impl GgufVocab<'_> {
    fn kind_number(&self, index: usize) -> i64 {
        self.token_types
            .as_ref()
            .and_then(|types| types.get(index).copied())
            .unwrap_or(1)
    }

    fn kind(&self, index: usize) -> Kind {
        match self.kind_number(index) {
            CONTROL | UNKNOWN => Kind::Control,
            USER_DEFINED => Kind::UserDefined,
            _ => Kind::Text,
        }
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(TokenizerError::Empty);
        }
        if count > TOKENS_MAX {
            return Err(TokenizerError::TooMany {
                what: "tokens",
                count,
                max: TOKENS_MAX,
            });
        }
        if let Some(types) = &self.token_types
            && types.len() != count
        {
            return Err(TokenizerError::CountMismatch {
                what: "token types",
                found: types.len(),
                tokens: count,
            });
        }
        for (id, text) in (0u32..).zip(&self.tokens) {
            if text.len() > TOKEN_BYTES_MAX {
                return Err(TokenizerError::TokenTooLong {
                    id,
                    len: text.len(),
                    max: TOKEN_BYTES_MAX,
                });
            }
        }
        let named = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
        ];
        for (what, id) in named {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(TokenizerError::IdOutOfRange {
                    what: what.into(),
                    id,
                    vocab: count,
                });
            }
        }
        Ok(())
    }

    /// Marks and user-defined tokens. With `rstrip`, a mark takes the blanks that follow it.
    fn added(&self, rstrip: bool) -> Vec<AddedToken> {
        let mut added = Vec::new();
        for (index, text) in self.tokens.iter().enumerate() {
            let kind = self.kind(index);
            if kind == Kind::Text || text.is_empty() {
                continue;
            }
            let strips = rstrip && !["<unk>", "<s>", "<|endoftext|>"].contains(text);
            let token = AddedToken::from(*text, kind == Kind::Control);
            added.push(token.normalized(false).rstrip(strips));
        }
        added
    }

    fn end_ids(&self) -> Vec<u32> {
        let mut marks = HashMap::new();
        for (id, text) in (0u32..).zip(&self.tokens) {
            if self.kind(id as usize) != Kind::Text {
                marks.insert(*text, id);
            }
        }
        end_ids(&[self.eos, self.eot, self.eom], |text| marks.get(text).copied())
    }
}

/// The tokenizer of a GGUF vocabulary.
pub(super) fn build(vocab: &GgufVocab<'_>) -> Result<Tokenizer, TokenizerError> {
    vocab.check()?;
    match vocab.model {
        "gpt2" => build_bpe(vocab),
        "llama" => build_spm(vocab),
        other => Err(TokenizerError::UnsupportedModel {
            found: match other {
                "bert" => "bert (WordPiece)".into(),
                "t5" => "t5 (Unigram)".into(),
                "rwkv" | "no_vocab" | "plamo2" => other.into(),
                _ => other.chars().take(80).collect(),
            },
            supported: "gpt2 (byte-level BPE) and llama (SentencePiece)",
        }),
    }
}

fn build_bpe(vocab: &GgufVocab<'_>) -> Result<Tokenizer, TokenizerError> {
    let pre = Pre::find(vocab.pre.ok_or(TokenizerError::MissingPre)?)?;
    let merges = vocab.merges.as_ref().ok_or(TokenizerError::Missing {
        what: "tokenizer.ggml.merges".into(),
    })?;
    let mut ids = Vocab::with_capacity(vocab.tokens.len());
    let mut texts = Pieces::with_capacity(vocab.tokens.len());
    for (id, text) in (0u32..).zip(&vocab.tokens) {
        // Some files fill gaps with empty tokens; they stand for no text, so they are not ambiguous.
        if !text.is_empty()
            && let Some(first) = ids.insert((*text).to_owned(), id)
        {
            return Err(TokenizerError::DuplicateToken { first, second: id });
        }
        let kind = vocab.kind(id as usize);
        texts.push(kind, |out| match kind {
            Kind::Text => pieces::push_byte_level(text, out),
            _ => out.extend_from_slice(text.as_bytes()),
        })?;
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let pair = merge
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let (left, right) = pair.ok_or_else(|| TokenizerError::BadMerge {
            index,
            reason: "it is not two tokens with a space between".into(),
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let rules = BpeRules {
        ignore_merges: pre.ignore_merges,
        ..BpeRules::default()
    };
    let merger = Merger::Bpe(bpe::build(ids, pairs, rules)?);
    let normalizer = pre.nfc.then_some(NormalizerWrapper::NFC(NFC));
    let pipeline = Pipeline::new(merger, normalizer, pre.stages()?, vocab.added(false))?;
    let add_bos = vocab.add_bos.unwrap_or(pre.add_bos);
    Ok(Tokenizer::assemble(Parts {
        kind: "bpe",
        pipeline,
        pieces: texts,
        bos: vocab.bos,
        eos: vocab.eos,
        prefix: vocab.bos.filter(|_| add_bos).into_iter().collect(),
        suffix: vocab
            .eos
            .filter(|_| vocab.add_eos.unwrap_or(false))
            .into_iter()
            .collect(),
        ends: vocab.end_ids(),
        strips_space: false,
    }))
}

fn build_spm(vocab: &GgufVocab<'_>) -> Result<Tokenizer, TokenizerError> {
    let count = vocab.tokens.len();
    let scores = vocab.scores.as_ref().ok_or(TokenizerError::Missing {
        what: "tokenizer.ggml.scores".into(),
    })?;
    if scores.len() != count {
        return Err(TokenizerError::CountMismatch {
            what: "scores",
            found: scores.len(),
            tokens: count,
        });
    }
    if let Some((id, _)) = (0u32..).zip(scores).find(|(_, score)| !score.is_finite()) {
        return Err(TokenizerError::BadScore { id });
    }
    let space_first = vocab.add_space_prefix.unwrap_or(true);
    // The format's own defaults, when the file is silent and the vocabulary has marks there.
    let usual =
        |id: u32| Some(id).filter(|id| vocab.kind(*id as usize) == Kind::Control && (*id as usize) < count);
    let (bos, eos, unk) = (
        vocab.bos.or(usual(1)),
        vocab.eos.or(usual(2)),
        vocab.unk.or(usual(0)),
    );
    let mut spm = Spm::new(scores.clone(), unk, space_first);
    let mut texts = Pieces::with_capacity(count);
    for (id, text) in (0u32..).zip(&vocab.tokens) {
        let kind = vocab.kind(id as usize);
        let byte = pieces::byte_token(text).filter(|_| vocab.kind_number(id as usize) == BYTE);
        let taken = match (kind, byte) {
            _ if text.is_empty() => None,
            (Kind::Control | Kind::Absent, _) => spm.add_mark(text, id),
            (_, Some(byte)) => {
                spm.add_byte(byte, id);
                spm.add_mark(text, id)
            }
            _ => spm.add_text(text, id),
        };
        if let Some(first) = taken {
            return Err(TokenizerError::DuplicateToken { first, second: id });
        }
        texts.push(kind, |out| match (kind, byte) {
            (_, Some(byte)) => out.push(byte),
            (Kind::Control, _) => out.extend_from_slice(text.as_bytes()),
            _ => pieces::push_spm(text, out),
        })?;
    }
    // Phi-3's marks take the line break that its template writes after them, as its own tokenizer does.
    let added = vocab.added(vocab.arch == Some("phi3"));
    let pipeline = Pipeline::new(Merger::Spm(spm), None, Vec::new(), added)?;
    Ok(Tokenizer::assemble(Parts {
        kind: "spm",
        pipeline,
        pieces: texts,
        bos,
        eos,
        prefix: bos
            .filter(|_| vocab.add_bos.unwrap_or(true))
            .into_iter()
            .collect(),
        suffix: eos
            .filter(|_| vocab.add_eos.unwrap_or(false))
            .into_iter()
            .collect(),
        ends: vocab.end_ids(),
        strips_space: space_first,
    }))
}
