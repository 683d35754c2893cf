//! Why a chat template cannot be used or a conversation cannot be rendered.
//! Invariant: a message holds the template's own words at most, never a user's text as such.

/// A template that does not compile, or a conversation that it cannot render.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// The template's source is longer than any real one.
    #[error("the chat template is {len} bytes long, more than the {max} allowed")]
    SourceTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The template does not compile.
    #[error(
        "the chat template has an error in line {line}: {message}; use another copy of the model, or send plain text"
    )]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template failed on this conversation.
    #[error("the chat template failed in line {line}: {message}")]
    Failed {
        /// Where.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// The template ran longer, or made more text, than the size of the conversation explains.
    #[error(
        "the chat template does more work than this conversation explains; the template is at fault, or the conversation is too long"
    )]
    TooMuchWork,
}
