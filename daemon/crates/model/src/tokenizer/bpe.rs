//! Builds the merge model of the `tokenizers` crate from lists that are not trusted.
//! Invariant: everything that the crate takes for granted (and panics without) is checked here first.

use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};

use super::TokenizerError;

/// Most merges; the largest vocabularies in use have about 450k.
const MERGES_MAX: usize = 4 << 20;

/// How merging treats what it does not know.
#[derive(Debug, Default)]
pub(super) struct BpeRules {
    pub(super) unk_token: Option<String>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

/// `merges` are pairs of token texts, best first.
pub(super) fn build(
    vocab: Vocab,
    merges: Vec<(String, String)>,
    rules: BpeRules,
) -> Result<BPE, TokenizerError> {
    if merges.len() > MERGES_MAX {
        return Err(TokenizerError::TooMany {
            what: "merges",
            count: merges.len(),
            max: MERGES_MAX,
        });
    }
    // The crate joins a merge in a buffer as long as the longest token; it looks the parts up by itself.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    for (index, (left, right)) in merges.iter().enumerate() {
        if left.len().saturating_add(right.len()) > longest {
            return Err(TokenizerError::BadMerge {
                index,
                reason: "it makes a text that is not a token".into(),
            });
        }
    }
    if let Some(unk) = &rules.unk_token
        && !vocab.contains_key(unk.as_str())
    {
        return Err(TokenizerError::Missing {
            what: "the unknown token, by its own name, in the vocabulary".into(),
        });
    }
    let mut builder = BpeBuilder::new()
        .vocab_and_merges(vocab, merges)
        // The crate caches words per thread and never frees them, not even when the model is unloaded.
        .cache_capacity(0)
        .fuse_unk(rules.fuse_unk)
        .byte_fallback(rules.byte_fallback)
        .ignore_merges(rules.ignore_merges);
    if let Some(unk) = rules.unk_token {
        builder = builder.unk_token(unk);
    }
    builder.build().map_err(|e| {
        let said: String = e.to_string().chars().take(200).collect();
        TokenizerError::Library(format!("merges: {said}"))
    })
}
