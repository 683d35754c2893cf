//! Model files: GGUF and safetensors folders, the architectures they describe, their weights, tokenizers and chat
//! templates.
//!
//! Invariant: files are untrusted. Every length is checked before it allocates, nothing panics on what a file says, and
//! what is not computed exactly is refused by name. `unsafe` lives in `map` alone.

#![deny(unsafe_code)]

mod arch;
mod config;
mod file;
pub mod gguf;
mod hf;
mod loader;
mod map;
mod open_error;
mod packed;
mod rope;
mod special;
mod template;
mod tensors;
#[cfg(test)]
mod testing;
mod tokenizer;
mod weights;

pub use arch::{ARCHS, Arch, Bias, WindowRule};
pub use config::{Config, ConfigError};
pub use file::{ModelFile, Summary, TokenizerSource, inspect, parse};
pub use hf::HfError;
pub use map::{MapError, file_identity, open_regular};
pub use open_error::OpenError;
pub use packed::{
    KnownDigest, PackOptions, PackReport, PackStage, Packed, PackedError, PackedFrom, PackedSource,
    PackedTable, PackedTensor, Tidied, parse as parse_packed, sweep as sweep_packed, tidy as tidy_packed,
};
pub use rope::{Rope, RopeScaling};
pub use special::SpecialIds;
pub use template::{ChatTemplate, TemplateError, TemplateInput};
pub use tokenizer::{DecodeStream, GgufVocab, Tokenizer, TokenizerError};
pub use weights::{Layer, Matrix, Weights, WeightsError};
