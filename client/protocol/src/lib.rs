//! What every door of `hyprstreamd` speaks: requests, events and errors, as JSON.
//!
//! Invariant: this crate holds data alone. It reads no file, opens no socket and knows none of the other crates, so a
//! client needs nothing else of ours.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

mod error;
mod event;
mod request;
mod state;
mod steering;

pub use error::{Blame, ErrorBody, ErrorCode, ErrorReply};
pub use event::{Event, FinishReason, LoadStage, Timings, TokenEvent, TokenLogprob, Usage};
pub use request::{
    CancelReply, ChatRequest, DetokenizeReply, DetokenizeRequest, FileReply, GenerateRequest, LoadRequest,
    Message, ModelReply, Priority, Prompt, Role, Sampling, ScoreReply, ScoreRequest, ScoredToken, TokenPiece,
    TokenizeReply, TokenizeRequest, UnloadRequest,
};
pub use state::{
    Job, JobKind, JobState, Jobs, KvBlocks, Memory, Model, ModelDetail, ModelState, Models, ReloadReply,
    Status,
};
pub use steering::is_steering;

/// Where the native routes live, on the Unix socket and elsewhere.
pub const API_PREFIX: &str = "/hyprstream/v1";

/// The socket of the system service.
pub const SYSTEM_SOCKET: &str = "/run/hyprstream/hyprstream.sock";

/// The socket of a user's own daemon, below `$XDG_RUNTIME_DIR`.
pub const USER_SOCKET: &str = "hyprstream/hyprstream.sock";

/// The socket of a user's own daemon: below `$XDG_RUNTIME_DIR`, or, where that is unset or not absolute, in a folder of
/// the user's below `/tmp`.
pub fn user_socket(runtime_dir: Option<&OsStr>, uid: u32) -> PathBuf {
    match runtime_dir.map(Path::new).filter(|path| path.is_absolute()) {
        Some(runtime_dir) => runtime_dir.join(USER_SOCKET),
        None => PathBuf::from(format!("/tmp/hyprstream-{uid}/hyprstream.sock")),
    }
}

/// The header that carries a request's id, in answers and (if the client wishes to choose it) in requests.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_a_place_without_a_runtime_folder() {
        let at = |runtime: Option<&str>| user_socket(runtime.map(OsStr::new), 7);
        assert_eq!(
            at(Some("/run/user/7")),
            Path::new("/run/user/7/hyprstream/hyprstream.sock")
        );
        for odd in [None, Some(""), Some("relative")] {
            assert_eq!(at(odd), Path::new("/tmp/hyprstream-7/hyprstream.sock"));
        }
    }
}
