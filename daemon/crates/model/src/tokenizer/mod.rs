//! Text to token ids and back, exactly as the model saw it in training.
//! Invariant: vocabularies and texts are untrusted; every limit is checked before work is done, and nothing panics.

mod bpe;
mod ends;
mod error;
mod gguf;
mod growth;
mod json;
mod pieces;
mod pipeline;
mod source;
mod split;
mod spm;
mod stream;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use error::TokenizerError;
pub use gguf::GgufVocab;
pub use stream::DecodeStream;

use pieces::{Kind, Pieces};
use pipeline::Pipeline;
use stream::TextState;

/// Most tokens; the largest vocabularies in use have about 260k.
const TOKENS_MAX: usize = 4 << 20;
/// Longest text of one token in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Longest text for one call in bytes, well over every context.
const TEXT_BYTES_MAX: usize = 32 << 20;

/// A vocabulary, ready to encode and decode. Shared between threads by `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    kind: &'static str,
    pipeline: Pipeline,
    pieces: Pieces,
    bos: Option<u32>,
    eos: Option<u32>,
    bos_text: String,
    eos_text: String,
    /// Ids that go before a text.
    prefix: Vec<u32>,
    /// Ids that go after a text.
    suffix: Vec<u32>,
    /// Ids that end an answer, ascending.
    ends: Vec<u32>,
    /// The vocabulary begins every text with a space that is not part of it.
    strips_space: bool,
}

/// What the readers of both formats come up with.
struct Parts {
    kind: &'static str,
    pipeline: Pipeline,
    pieces: Pieces,
    bos: Option<u32>,
    eos: Option<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    ends: Vec<u32>,
    strips_space: bool,
}

impl Tokenizer {
    /// From the vocabulary in a GGUF file.
    pub fn from_gguf(vocab: &GgufVocab<'_>) -> Result<Tokenizer, TokenizerError> {
        guarded(|| gguf::build(vocab))
    }

    /// From the bytes of tokenizer.json and, if there is one, the value of tokenizer_config.json.
    pub fn from_json(json: &[u8], config: Option<&serde_json::Value>) -> Result<Tokenizer, TokenizerError> {
        guarded(|| json::build(json, config))
    }

    fn assemble(parts: Parts) -> Tokenizer {
        let Parts {
            kind,
            pipeline,
            pieces,
            bos,
            eos,
            prefix,
            suffix,
            ends,
            strips_space,
        } = parts;
        let text = |id: Option<u32>| {
            let bytes = id.and_then(|id| pieces.bytes(id)).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (bos_text, eos_text) = (text(bos), text(eos));
        Tokenizer {
            kind,
            pipeline,
            bos,
            eos,
            bos_text,
            eos_text,
            prefix,
            suffix,
            ends,
            strips_space,
            pieces,
        }
    }

    /// The ids of `text`. With `add_special`, the begin and end tokens that the file asks for are added. With
    /// `parse_special`, marks like `<|im_start|>` in the text become their tokens; without, they are plain text.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenizerError::TextTooLong {
                len: text.len(),
                max: TEXT_BYTES_MAX,
            });
        }
        let ids = guarded(|| self.pipeline.ids(text, parse_special))?;
        if !add_special {
            return Ok(ids);
        }
        Ok([self.prefix.as_slice(), &ids, &self.suffix].concat())
    }

    /// The text of `tokens`; bytes that are no characters become U+FFFD, ids outside the vocabulary nothing.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        let mut out = String::with_capacity(tokens.len().saturating_mul(4));
        let mut text = TextState::new(self.strips_space);
        for token in tokens {
            text.push(self, *token, skip_special, &mut out);
        }
        text.finish(&mut out);
        out
    }

    /// The bytes that one token stands for, a mark's own text included.
    pub fn piece(&self, token: u32) -> Option<Cow<'_, [u8]>> {
        self.pieces.bytes(token).map(Cow::Borrowed)
    }

    /// Number of ids; the largest is one less.
    pub fn vocab_len(&self) -> usize {
        self.pieces.len()
    }

    /// The begin token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The begin token's text, for chat templates; empty without one.
    pub fn bos_text(&self) -> &str {
        &self.bos_text
    }

    /// The end token's text, for chat templates; empty without one.
    pub fn eos_text(&self) -> &str {
        &self.eos_text
    }

    /// Whether `token` ends an answer: the end token, and marks that end a turn.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// Whether `token` is a mark for the model (begin, end, roles) and not text.
    pub fn is_special(&self, token: u32) -> bool {
        self.pieces.kind(token) == Some(Kind::Control)
    }

    /// `bpe` (byte-level) or `spm` (SentencePiece).
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Decodes what follows `prompt`, token by token.
    pub fn stream(self: &Arc<Self>, prompt: &[u32]) -> DecodeStream {
        DecodeStream::new(Arc::clone(self), prompt)
    }
}

/// Runs code of the `tokenizers` crate on untrusted data: it unwraps in places that a hostile file may reach.
fn guarded<T>(run: impl FnOnce() -> Result<T, TokenizerError>) -> Result<T, TokenizerError> {
    // Nothing that a panic leaves half-done survives it: builders are dropped, and encoding changes nothing.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(TokenizerError::Panicked))
}
