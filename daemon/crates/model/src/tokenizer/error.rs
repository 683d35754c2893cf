//! Why a vocabulary cannot be used or a text cannot be encoded.
//! Invariant: every message names what was found and what to do; none repeats a user's text.

/// A tokenizer that could not be built, or a text that it could not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The vocabulary is of a kind that this program does not read.
    #[error("tokenizer model {found:?} is not supported; supported are {supported}")]
    UnsupportedModel {
        /// What the file names.
        found: String,
        /// What may stand there.
        supported: &'static str,
    },
    /// The file names a pre-tokenizer that is not in the table.
    #[error(
        "pre-tokenizer {found:?} (tokenizer.ggml.pre) is not supported; supported are {supported}; \
         use the model's tokenizer.json instead"
    )]
    UnsupportedPre {
        /// What the file names.
        found: String,
        /// Every name in the table.
        supported: String,
    },
    /// A BPE vocabulary in a GGUF file says nothing about how text is cut into words.
    #[error(
        "the file names no pre-tokenizer (tokenizer.ggml.pre); convert the model again with a current converter"
    )]
    MissingPre,
    /// A part of tokenizer.json is valid but not one that this program reads.
    #[error("tokenizer.json: {part} {found:?} is not supported; supported are {supported}")]
    UnsupportedPart {
        /// Which part.
        part: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        supported: &'static str,
    },
    /// Metadata or a file that the tokenizer needs is absent or of the wrong type.
    #[error("the tokenizer needs {what}, which is missing or of the wrong type; get the model's files again")]
    Missing {
        /// The key or file.
        what: String,
    },
    /// A key of a GGUF file's vocabulary is of the wrong type.
    #[error("the vocabulary cannot be read: {0}")]
    Metadata(#[source] crate::gguf::GgufError),
    /// tokenizer.json is not the JSON that it should be.
    #[error("tokenizer.json is malformed: {0}; get the model's files again")]
    Json(String),
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The vocabulary has no tokens.
    #[error("the vocabulary is empty")]
    Empty,
    /// A count is over what any model uses.
    #[error("the vocabulary has {count} {what}, more than the {max} allowed")]
    TooMany {
        /// tokens, merges, ...
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Two lists that must agree do not.
    #[error("the vocabulary has {tokens} tokens but {found} {what}")]
    CountMismatch {
        /// The list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// One token is absurdly long.
    #[error("token {id} is {len} bytes long, more than the {max} allowed")]
    TokenTooLong {
        /// Which.
        id: u32,
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Two ids have the same text, so encoding would be ambiguous.
    #[error("tokens {first} and {second} have the same text")]
    DuplicateToken {
        /// One id.
        first: u32,
        /// The other.
        second: u32,
    },
    /// One id has two texts.
    #[error("token id {id} is given twice")]
    DuplicateId {
        /// The id.
        id: u32,
    },
    /// An id points outside the vocabulary.
    #[error("{what} is {id}, but the vocabulary has {vocab} tokens")]
    IdOutOfRange {
        /// Which id.
        what: String,
        /// Its value.
        id: u32,
        /// Number of tokens.
        vocab: usize,
    },
    /// A score is not a number.
    #[error("the score of token {id} is not a finite number")]
    BadScore {
        /// Which.
        id: u32,
    },
    /// A merge cannot be done.
    #[error("merge {index}: {reason}")]
    BadMerge {
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The `tokenizers` crate refused a part of the file.
    #[error("the tokenizer's description cannot be used: {0}")]
    Library(String),
    /// The text is longer than any context.
    #[error("the text is {len} bytes long, more than the {max} that can be tokenized at once")]
    TextTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The vocabulary's word pattern takes too long on this text.
    #[error(
        "cutting the text into words took too long; the model's word pattern is at fault, or the text repeats one character for megabytes"
    )]
    TooSlow,
    /// A character that the vocabulary cannot express.
    #[error("the vocabulary has no token for a character of the text, and no unknown token")]
    NoToken,
    /// The `tokenizers` crate panicked on this vocabulary or text.
    #[error("the tokenizer failed on this vocabulary; the model's tokenizer files are damaged")]
    Panicked,
}
