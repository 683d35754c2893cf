//! Text to ids: marks are found first, then each part between them is normalized, cut and merged.
//! Invariant: with marks off, no text yields a control token.

use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    Token,
};

use super::TokenizerError;
use super::split::Stage;
use super::spm::Spm;

/// What turns one word into tokens.
#[derive(Debug)]
pub(super) enum Merger {
    Bpe(BPE),
    Spm(Spm),
}

/// The steps of one vocabulary.
pub(super) struct Pipeline {
    /// Finds every added token.
    with_marks: AddedVocabulary,
    /// Finds those that are text to the user, not control tokens.
    without_marks: AddedVocabulary,
    normalizer: Option<NormalizerWrapper>,
    stages: Vec<Stage>,
    merger: Merger,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("stages", &self.stages.len())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// `added` have their ids in `merger`'s vocabulary, or are numbered on from its end.
    pub(super) fn new(
        merger: Merger,
        normalizer: Option<NormalizerWrapper>,
        stages: Vec<Stage>,
        added: Vec<AddedToken>,
    ) -> Result<Pipeline, TokenizerError> {
        let mut with_marks = AddedVocabulary::new();
        let done = match &merger {
            Merger::Bpe(bpe) => with_marks.add_tokens(added, bpe, normalizer.as_ref()),
            Merger::Spm(spm) => with_marks.add_tokens(added, spm, normalizer.as_ref()),
        };
        done.map_err(|e| TokenizerError::Library(format!("added tokens: {e}")))?;
        let mut without_marks = with_marks.clone();
        without_marks.set_encode_special_tokens(true);
        Ok(Pipeline {
            with_marks,
            without_marks,
            normalizer,
            stages,
            merger,
        })
    }

    /// The id that an added token was given.
    pub(super) fn added_id(&self, text: &str) -> Option<u32> {
        self.with_marks.get_vocab().get(text).copied()
    }

    pub(super) fn ids(&self, text: &str, marks: bool) -> Result<Vec<u32>, TokenizerError> {
        let added = if marks {
            &self.with_marks
        } else {
            &self.without_marks
        };
        let mut parts = added.extract_and_normalize(self.normalizer.as_ref(), text);
        for stage in &self.stages {
            stage.apply(&mut parts)?;
        }
        self.merge(&mut parts)?;
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        for (_, _, tokens) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(ids)
    }

    fn merge(&self, parts: &mut PreTokenizedString) -> Result<(), TokenizerError> {
        let done = match &self.merger {
            Merger::Bpe(bpe) => parts.tokenize(|word| {
                let tokens = bpe.tokenize(word.get())?;
                whole(word.get(), &tokens)?;
                Ok(tokens)
            }),
            Merger::Spm(spm) => parts.tokenize(|word| spm.tokenize(word.get())),
        };
        done.map_err(|e| match e.downcast::<TokenizerError>() {
            Ok(own) => *own,
            Err(other) => TokenizerError::Library(other.to_string()),
        })
    }
}

/// The crate drops characters without a token; a prompt must not lose text in silence.
fn whole(word: &str, tokens: &[Token]) -> Result<(), TokenizerError> {
    let covered: usize = tokens
        .iter()
        .map(|t| t.offsets.1.saturating_sub(t.offsets.0))
        .sum();
    if covered < word.len() {
        Err(TokenizerError::NoToken)
    } else {
        Ok(())
    }
}
