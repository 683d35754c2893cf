//! Folders as Hugging Face's `transformers` writes them: config.json, safetensors and a tokenizer. Invariant: every file
//! is bounded before it is read, and none outside the folder is named.

mod config;
mod shards;
#[cfg(test)]
mod tests;

use crate::config::{Config, ConfigError};
use crate::map::{MapError, open_regular};
use crate::tensors::Tensors;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const CONFIG_BYTES_MAX: u64 = 4 << 20;
const TOKENIZER: &str = "tokenizer.json";
/// It may hold every added token and the chat template.
const TOKENIZER_CONFIG_BYTES_MAX: u64 = 16 << 20;
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HfError {
    /// There is no config.json.
    #[error("there is no {CONFIG} beside the weights; copy the whole folder")]
    NoConfig,
    /// There are no weights.
    #[error(
        "there is no {}, nor {}; copy the whole folder",
        shards::SINGLE,
        shards::INDEX
    )]
    NoWeights,
    /// A file could not be mapped.
    #[error("{file} {source}")]
    Map {
        /// The file.
        file: String,
        /// Why.
        source: MapError,
    },
    /// A file that should be there is not.
    #[error("{file} is missing; copy the whole folder")]
    FileMissing {
        /// The file.
        file: String,
    },
    /// A file is larger than any real one.
    #[error("{file} is longer than {max} bytes, which no model needs")]
    TooLarge {
        /// The file.
        file: String,
        /// The limit.
        max: u64,
    },
    /// Not JSON, or not what it should hold.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A header longer than any real one.
    #[error("{file} claims a header of {len} bytes; at most {max} are read, so it is no safetensors file")]
    HeaderTooLong {
        /// The file.
        file: String,
        /// What it claims.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The file is not as long as its header says.
    #[error("{file} has {has} bytes and should have {needs}; copy or download it again")]
    Length {
        /// The file.
        file: String,
        /// What the header says.
        needs: u64,
        /// What is there.
        has: u64,
    },
    /// The index lacks a part.
    #[error("{} lacks {what}", shards::INDEX)]
    IndexShape {
        /// What it lacks.
        what: &'static str,
    },
    /// The index names a file outside the folder.
    #[error("{} names {file:?}, which is not inside the folder", shards::INDEX)]
    IndexPath {
        /// The path.
        file: String,
    },
    /// The index puts a tensor in a file that does not have it.
    #[error("{} puts {tensor} in {file}, which does not hold it", shards::INDEX)]
    IndexTensor {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// More than any real model has.
    #[error("{count} {what}; at most {max} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Two files hold a tensor of one name.
    #[error("tensor {tensor} appears in two files")]
    TensorTwice {
        /// The tensor.
        tensor: String,
    },
    /// config.json describes something that cannot be computed.
    #[error("{CONFIG}: {0}")]
    Config(#[from] ConfigError),
}

impl HfError {
    /// Whether a folder that is still being written would look like this.
    pub fn is_incomplete(&self) -> bool {
        match self {
            Self::NoConfig | Self::NoWeights | Self::FileMissing { .. } => true,
            Self::Length { needs, has, .. } => has < needs,
            Self::Json { source, .. } => source.is_eof(),
            _ => false,
        }
    }
}

/// An opened folder.
pub(crate) struct Folder {
    pub config: Config,
    pub config_json: Value,
    pub generation_config: Option<Value>,
    pub tensors: Tensors,
    pub tokenizer: Option<PathBuf>,
    pub tokenizer_config: Option<Value>,
    pub template: Option<String>,
}

impl Folder {
    /// Opens `folder`; with `only`, that file of it holds the weights.
    pub fn open(folder: &Path, only: Option<&str>) -> Result<Folder, HfError> {
        let config_json = read_json(folder, CONFIG, CONFIG_BYTES_MAX)?.ok_or(HfError::NoConfig)?;
        let tensors = shards::open(folder, only)?;
        let config = config::read(&config_json, tensors.by_name.contains_key("lm_head.weight"))?;
        let tokenizer_config = read_json(folder, "tokenizer_config.json", TOKENIZER_CONFIG_BYTES_MAX)?;
        let template = match read_text(folder, "chat_template.jinja", TEMPLATE_BYTES_MAX)? {
            Some(text) => Some(text),
            None => template_in(tokenizer_config.as_ref()),
        };
        Ok(Folder {
            config,
            config_json,
            generation_config: read_json(folder, "generation_config.json", CONFIG_BYTES_MAX)?,
            tensors,
            tokenizer: tokenizer_in(folder)?,
            tokenizer_config,
            template,
        })
    }
}

/// A pipe or a folder in its place is said, not passed over as if there were none.
fn tokenizer_in(folder: &Path) -> Result<Option<PathBuf>, HfError> {
    let path = folder.join(TOKENIZER);
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(HfError::Map {
            file: TOKENIZER.to_owned(),
            source: MapError::NotAFile,
        }),
        Ok(_) => Ok(Some(path)),
        Err(_) => Ok(None),
    }
}

/// The template in tokenizer_config.json: a string, or the one called "default" of several.
fn template_in(config: Option<&Value>) -> Option<String> {
    let template = config?.get("chat_template")?;
    let named = |list: &Vec<Value>| {
        let default = list
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))?;
        default.get("template")?.as_str().map(str::to_owned)
    };
    template
        .as_str()
        .map(str::to_owned)
        .or_else(|| template.as_array().and_then(named))
}

fn read_bytes(folder: &Path, name: &str, max: u64) -> Result<Option<Vec<u8>>, HfError> {
    let failed = |source| HfError::Map {
        file: name.to_owned(),
        source,
    };
    let file = match open_regular(&folder.join(name)) {
        Ok(file) => file,
        Err(MapError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(e.into()))?;
    if bytes.len() as u64 > max {
        return Err(HfError::TooLarge {
            file: name.to_owned(),
            max,
        });
    }
    Ok(Some(bytes))
}

fn read_json(folder: &Path, name: &str, max: u64) -> Result<Option<Value>, HfError> {
    let Some(bytes) = read_bytes(folder, name, max)? else {
        return Ok(None);
    };
    let json = serde_json::from_slice(&bytes);
    json.map(Some).map_err(|source| HfError::Json {
        file: name.to_owned(),
        source,
    })
}

fn read_text(folder: &Path, name: &str, max: u64) -> Result<Option<String>, HfError> {
    let bytes = read_bytes(folder, name, max)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}
