//! The one place where every error becomes what clients see. Invariant: no error reaches a client by another way.
use crate::catalog::Unresolved;
use crate::models::AcquireError;
use crate::said::said;
use hyprstream_engine::{EngineError, InvalidSampling, SubmitError};
use hyprstream_model::{TemplateError, TokenizerError};
use hyprstream_protocol::{ErrorBody, ErrorCode};

/// After how long to ask again for a model that waits for memory.
const ROOM_RETRY_MS: u64 = 1000;

/// After how long to look whether one of one's own requests has ended.
const QUOTA_RETRY_MS: u64 = 1_000;

/// After how long a client may look for the daemon that follows this one.
const RESTART_MS: u64 = 1_000;

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub ErrorBody);

impl Failure {
    /// An error without hint or field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure(ErrorBody::new(code, message))
    }

    /// The request is to blame, in one field.
    pub fn bad_field(field: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure(ErrorBody::new(ErrorCode::BadRequest, message).for_field(field))
    }

    /// The user has as much as one may.
    pub fn quota(message: String) -> Failure {
        Failure(ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(QUOTA_RETRY_MS))
    }

    /// The daemon is going away.
    pub fn stopping() -> Failure {
        let message = "the daemon is stopping; try again in a moment";
        Failure(ErrorBody::new(ErrorCode::Stopping, message).retry_after_ms(RESTART_MS))
    }

    /// The request was ended by `DELETE /jobs/ID`.
    pub fn cancelled() -> Failure {
        Failure::new(ErrorCode::Cancelled, "the request was cancelled")
    }

    /// No job of this user has this id. The same whether it exists for others or not.
    pub fn no_such_job(id: &str) -> Failure {
        Failure::new(
            ErrorCode::JobNotFound,
            format!("you have no job {:?}; `hyp ps` lists yours", said(id)),
        )
    }

    /// The beginning of a prompt alone has more tokens than fit.
    pub fn too_long(tokens: usize, tokens_max: usize) -> Failure {
        Failure::new(
            ErrorCode::ContextExceeded,
            format!(
                "the prompt has more than {tokens} tokens, and the context holds {tokens_max}; shorten it"
            ),
        )
    }

    /// The configuration names a default model that is not there.
    pub fn wrong_default(why: Unresolved) -> Failure {
        let message = format!("[generation] model in the daemon's configuration: {why}");
        Failure::new(ErrorCode::ModelNotFound, message)
    }

    /// Nothing is there to answer.
    pub fn no_models() -> Failure {
        Failure::new(
            ErrorCode::ModelNotFound,
            "there is no usable model; put a GGUF file or a Hugging Face folder into a models folder (`hyp status` names them)",
        )
    }

    /// The model cannot do without something that it does not have.
    pub fn lacks(model: &str, what: &str, instead: &str) -> Failure {
        Failure::new(
            ErrorCode::ModelLacks,
            format!("model {model} has no {what}; {instead}"),
        )
    }

    /// A task of the daemon broke off.
    pub fn fault(what: &str) -> Failure {
        tracing::error!("fault: {what}");
        Failure::new(
            ErrorCode::Internal,
            "the daemon failed; the journal has the details under the request's id",
        )
    }
}

impl From<Unresolved> for Failure {
    fn from(error: Unresolved) -> Failure {
        Failure(ErrorBody::new(ErrorCode::ModelNotFound, error.to_string()).for_field("model"))
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Failure {
        let code = match error {
            AcquireError::Broken { .. } => ErrorCode::ModelBroken,
            // It fits once the others are through.
            AcquireError::TooLarge { needs, budget, .. } if needs <= budget => {
                return Failure(
                    ErrorBody::new(ErrorCode::Busy, error.to_string()).retry_after_ms(ROOM_RETRY_MS),
                );
            }
            AcquireError::TooLarge { .. } => ErrorCode::ModelTooLarge,
            AcquireError::Fault { .. } => ErrorCode::Internal,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Failure {
        let message = error.to_string();
        match error {
            SubmitError::Busy { retry_ms, .. } => {
                Failure(ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(retry_ms))
            }
            SubmitError::Stopping => Failure::stopping(),
            SubmitError::EmptyPrompt | SubmitError::BadToken { .. } => Failure::bad_field("prompt", message),
            SubmitError::ContextExceeded { .. } | SubmitError::UserKv { .. } => {
                Failure::new(ErrorCode::ContextExceeded, message)
            }
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let code = match error {
            EngineError::Cancelled | EngineError::Stalled { .. } => ErrorCode::Cancelled,
            EngineError::Stopping => return Failure::stopping(),
            EngineError::UserKv { .. } => return Failure::quota(error.to_string()),
            EngineError::ModelDamaged { .. } | EngineError::NotFinite { .. } => ErrorCode::ModelBroken,
            EngineError::OutOfMemory { .. } => ErrorCode::ModelTooLarge,
            EngineError::Fault => ErrorCode::Internal,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<InvalidSampling> for Failure {
    fn from(error: InvalidSampling) -> Failure {
        let message = format!("`{}` {}", error.field, error.message);
        Failure::bad_field(format!("sampling.{}", error.field), message)
    }
}

/// The tokenizer was built, so the text is to blame.
impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Failure {
        Failure::bad_field("prompt", error.to_string())
    }
}

/// A template refuses talks that it is not made for (`raise_exception`), and says why.
impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Failure {
        Failure::bad_field("messages", said(&error.to_string()))
    }
}
