//! Why a model cannot be opened. Invariant: the message names the file, what is wrong and what to do.

use crate::config::ConfigError;
use crate::gguf::GgufError;
use crate::hf::HfError;
use crate::map::MapError;
use crate::weights::WeightsError;
use std::path::Path;

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be mapped.
    #[error("{file} {source}")]
    Map {
        /// The file's name.
        file: String,
        /// Why.
        source: MapError,
    },
    /// Neither a GGUF file nor a folder with safetensors.
    #[error("{file} is neither a GGUF file nor a folder with config.json and safetensors")]
    NotAModel {
        /// The file's name.
        file: String,
    },
    /// The GGUF header is wrong.
    #[error("{file}: {source}")]
    Gguf {
        /// The file's name.
        file: String,
        /// Why.
        source: GgufError,
    },
    /// The folder is wrong.
    #[error("{file}: {source}")]
    Folder {
        /// The folder's name.
        file: String,
        /// Why.
        source: HfError,
    },
    /// The description cannot be computed.
    #[error("{file}: {source}")]
    Config {
        /// The file's name.
        file: String,
        /// Why.
        source: ConfigError,
    },
    /// The weights do not fit the description.
    #[error("{file}: {source}")]
    Weights {
        /// The file's or folder's name.
        file: String,
        /// Why.
        source: WeightsError,
    },
    /// The file shrank while it was read.
    #[error("{file} became shorter while it was read; it is being written, so try again when it is complete")]
    Damaged {
        /// The file's or folder's name.
        file: String,
    },
}

impl OpenError {
    pub(crate) fn map(path: &Path, source: MapError) -> OpenError {
        OpenError::Map {
            file: name_of(path),
            source,
        }
    }

    pub(crate) fn gguf(path: &Path, source: GgufError) -> OpenError {
        OpenError::Gguf {
            file: name_of(path),
            source,
        }
    }

    /// Whether the model looks like one that is still being written, so that it is worth waiting for.
    pub fn is_incomplete(&self) -> bool {
        match self {
            Self::Gguf { source, .. } => source.is_incomplete(),
            Self::Folder { source, .. } => source.is_incomplete(),
            Self::Map {
                source: MapError::Io(e),
                ..
            } => e.kind() == std::io::ErrorKind::NotFound,
            Self::Damaged { .. } => true,
            _ => false,
        }
    }
}

/// A path's last part, for messages.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
