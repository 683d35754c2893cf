//! Where a tokenizer's parts lie in a model's files.
//! Invariant: whatever is absent or of the wrong type is named by its key or path.

use std::io::Read;
use std::path::Path;

use super::{GgufVocab, Tokenizer, TokenizerError};
use crate::TokenizerSource;
use crate::gguf::{GgufError, Metadata};

/// Largest tokenizer.json in bytes; the largest in use has about 35 MB.
const JSON_BYTES_MAX: u64 = 256 << 20;

impl Tokenizer {
    /// The tokenizer of a model's files.
    pub fn new(source: &TokenizerSource<'_>) -> Result<Tokenizer, TokenizerError> {
        match source {
            TokenizerSource::Json { tokenizer, config } => Tokenizer::from_json(&read(tokenizer)?, *config),
            TokenizerSource::Gguf(metadata) => Tokenizer::from_gguf(&GgufVocab::new(metadata)?),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::Read {
        path: path.display().to_string(),
        source,
    };
    let file = crate::map::open_regular(path).map_err(|error| failed(error.into()))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long, however long it says it is.
    file.take(JSON_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        let (count, max) = (bytes.len(), JSON_BYTES_MAX as usize);
        return Err(TokenizerError::TooMany {
            what: "bytes in tokenizer.json or more",
            count,
            max,
        });
    }
    Ok(bytes)
}

impl<'a> GgufVocab<'a> {
    /// The vocabulary in a GGUF file's metadata.
    pub fn new(metadata: &'a Metadata) -> Result<GgufVocab<'a>, TokenizerError> {
        // An id of -1 is how some converters write "none".
        let id = |key: &str| -> Option<u32> { metadata.u32(key).ok().flatten().filter(|id| *id != u32::MAX) };
        let missing = |key: &str| TokenizerError::Missing { what: key.to_owned() };
        Ok(GgufVocab {
            arch: metadata.str("general.architecture")?,
            model: metadata
                .str("tokenizer.ggml.model")?
                .ok_or_else(|| missing("tokenizer.ggml.model"))?,
            pre: metadata.str("tokenizer.ggml.pre")?,
            tokens: metadata
                .strings("tokenizer.ggml.tokens")?
                .ok_or_else(|| missing("tokenizer.ggml.tokens"))?,
            scores: metadata.f32s("tokenizer.ggml.scores")?,
            token_types: metadata.ints("tokenizer.ggml.token_type")?,
            merges: metadata.strings("tokenizer.ggml.merges")?,
            bos: id("tokenizer.ggml.bos_token_id"),
            eos: id("tokenizer.ggml.eos_token_id"),
            eot: id("tokenizer.ggml.eot_token_id"),
            eom: id("tokenizer.ggml.eom_token_id"),
            unk: id("tokenizer.ggml.unknown_token_id"),
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
        })
    }
}

impl From<GgufError> for TokenizerError {
    fn from(error: GgufError) -> Self {
        TokenizerError::Metadata(error)
    }
}
