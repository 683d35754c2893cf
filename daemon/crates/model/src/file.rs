//! A model on disk, of either format, behind one type. Invariant: a `ModelFile` passed every check, and `inspect` makes the
//! same ones, except that it does not read the weights themselves.

use crate::config::Config;
use crate::gguf::{self, Gguf, GgufError, Metadata, TensorInfo};
use crate::hf::Folder;
use crate::loader::{self, Names};
use crate::map::Map;
use crate::open_error::{OpenError, name_of};
use crate::special::SpecialIds;
use crate::tensors::{Tensor, Tensors};
use crate::weights::Weights;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the catalog shows of a model.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Architecture.
    pub arch: String,
    /// Number of weights.
    pub parameters: u64,
    /// The type that most bytes of weights have.
    pub format: String,
    /// Longest context in tokens.
    pub context: u32,
    /// Bytes of the weights' files.
    pub bytes: u64,
    /// Bytes that the weights take in memory: packed where they can be, else as they lie in the files.
    pub resident_bytes: u64,
    /// Shape of the network.
    pub config: Config,
    /// What the tokenizer is, if there is one: `bpe`, `spm`, another name in GGUF, or `tokenizer.json`.
    pub has_tokenizer: Option<String>,
    /// Whether there is a chat template.
    pub has_template: bool,
}

/// Where the tokenizer comes from.
pub enum TokenizerSource<'a> {
    /// Hugging Face's files.
    Json {
        /// Path of tokenizer.json.
        tokenizer: &'a Path,
        /// tokenizer_config.json.
        config: Option<&'a Value>,
    },
    /// The vocabulary in a GGUF file.
    Gguf(&'a Metadata),
}

/// An opened, checked and mapped model.
pub struct ModelFile {
    /// The file's or folder's name, for messages.
    name: String,
    weights: Weights,
    special: SpecialIds,
    summary: Summary,
    maps: Vec<Arc<Map>>,
    extras: Extras,
}

/// What the formats keep outside weights and description.
enum Extras {
    Gguf(Metadata),
    Folder {
        tokenizer: Option<PathBuf>,
        tokenizer_config: Option<Value>,
        template: Option<String>,
    },
}

impl ModelFile {
    /// Opens a GGUF file, a folder with safetensors, or one safetensors file of a folder.
    pub fn open(path: &Path) -> Result<ModelFile, OpenError> {
        open(path, true)
    }

    /// Shape of the network.
    pub fn config(&self) -> &Config {
        &self.summary.config
    }

    /// Weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Where the tokenizer comes from; `None` if there is none.
    pub fn tokenizer_source(&self) -> Option<TokenizerSource<'_>> {
        match &self.extras {
            Extras::Gguf(metadata) => metadata
                .get("tokenizer.ggml.model")
                .map(|_| TokenizerSource::Gguf(metadata)),
            Extras::Folder {
                tokenizer,
                tokenizer_config,
                ..
            } => tokenizer.as_deref().map(|tokenizer| TokenizerSource::Json {
                tokenizer,
                config: tokenizer_config.as_ref(),
            }),
        }
    }

    /// The chat template's text.
    pub fn chat_template_source(&self) -> Option<&str> {
        match &self.extras {
            Extras::Gguf(metadata) => template_in(metadata),
            Extras::Folder { template, .. } => template.as_deref(),
        }
    }

    /// Ids of tokens with a meaning.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// What the catalog shows.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub(crate) fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    pub(crate) fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// Counts another map among those whose damage spoils results.
    pub(crate) fn add_map(&mut self, map: Arc<Map>) {
        self.maps.push(map);
    }

    pub(crate) fn damage(&self) -> OpenError {
        OpenError::Damaged {
            file: self.name.clone(),
        }
    }

    /// Whether a file shrank or failed under its map: results are worthless from then on.
    pub fn damaged(&self) -> bool {
        self.maps.iter().any(|map| map.damaged())
    }
}

/// Checks a model as `ModelFile::open` does, reading headers only.
pub fn inspect(path: &Path) -> Result<Summary, OpenError> {
    open(path, false).map(|file| file.summary)
}

/// Opens a GGUF file in memory: for fuzzing.
pub fn parse(bytes: Vec<u8>) -> Result<ModelFile, OpenError> {
    open_gguf("bytes in memory".to_owned(), Map::from_bytes(bytes), true)
}

fn open(path: &Path, decode: bool) -> Result<ModelFile, OpenError> {
    let file = name_of(path);
    if path.is_dir() {
        return open_folder(file, path, None, decode);
    }
    if path.extension().is_some_and(|e| e == "safetensors") {
        let parent = path.parent().unwrap_or(Path::new(""));
        return open_folder(file.clone(), parent, Some(&file), decode);
    }
    let map = Map::open(path).map_err(|source| OpenError::map(path, source))?;
    open_gguf(file, map, decode)
}

fn open_gguf(file: String, map: Map, decode: bool) -> Result<ModelFile, OpenError> {
    let gguf_error = |source| match source {
        GgufError::Magic { .. } => OpenError::NotAModel { file: file.clone() },
        source => OpenError::Gguf {
            file: file.clone(),
            source,
        },
    };
    let (metadata, infos) = Gguf::parse(map.bytes()).map_err(gguf_error)?.into_parts();
    if infos.is_empty() {
        return Err(gguf_error(GgufError::NoTensors));
    }
    let map = Arc::new(map);
    let by_name = infos.into_iter().map(|info| tensor_of(info, &map)).collect();
    let tensors = Tensors {
        by_name,
        maps: vec![map],
    };
    let vocab = tensors
        .by_name
        .get(loader::GGUF.embed)
        .and_then(|t| t.shape.first().copied());
    let tied = !tensors.by_name.contains_key(loader::GGUF.output);
    let config =
        gguf::config::read(&metadata, vocab.unwrap_or(1), tied).map_err(|source| OpenError::Config {
            file: file.clone(),
            source,
        })?;
    let special = SpecialIds::from_gguf(&metadata, config.vocab).map_err(gguf_error)?;
    let tokenizer = metadata
        .str("tokenizer.ggml.model")
        .map_err(gguf_error)?
        .map(|model| match model {
            "gpt2" => "bpe".to_owned(),
            "llama" => "spm".to_owned(),
            other => other.to_owned(),
        });
    let has_template = template_in(&metadata).is_some();
    let summary = summary_of(&tensors, config, tokenizer, has_template);
    finish(
        file,
        tensors,
        &loader::GGUF,
        summary,
        special,
        Extras::Gguf(metadata),
        decode,
    )
}

fn open_folder(file: String, path: &Path, only: Option<&str>, decode: bool) -> Result<ModelFile, OpenError> {
    let folder = Folder::open(path, only).map_err(|source| OpenError::Folder {
        file: file.clone(),
        source,
    })?;
    let Folder {
        config,
        config_json,
        generation_config,
        tensors,
        tokenizer,
        tokenizer_config,
        template,
    } = folder;
    let special = SpecialIds::from_hf(
        generation_config.as_ref(),
        &config_json,
        tokenizer_config.as_ref(),
        config.vocab,
    );
    let kind = tokenizer.as_deref().map(name_of);
    let summary = summary_of(&tensors, config, kind, template.is_some());
    let extras = Extras::Folder {
        tokenizer,
        tokenizer_config,
        template,
    };
    finish(
        file,
        tensors,
        &loader::SAFETENSORS,
        summary,
        special,
        extras,
        decode,
    )
}

fn finish(
    file: String,
    tensors: Tensors,
    names: &'static Names,
    summary: Summary,
    special: SpecialIds,
    extras: Extras,
    decode: bool,
) -> Result<ModelFile, OpenError> {
    let weights = loader::load(&tensors, names, &summary.config, decode);
    if tensors.damaged() {
        return Err(OpenError::Damaged { file });
    }
    let weights = weights.map_err(|source| OpenError::Weights {
        file: file.clone(),
        source,
    })?;
    let mut summary = summary;
    summary.resident_bytes = weights.resident_bytes();
    Ok(ModelFile {
        name: file,
        weights,
        special,
        summary,
        maps: tensors.maps,
        extras,
    })
}

/// A template that is no string counts as none: the model still completes texts.
fn template_in(metadata: &Metadata) -> Option<&str> {
    metadata.str("tokenizer.chat_template").ok().flatten()
}

/// `Gguf::parse` has checked that the range lies in the map, so that its ends fit a machine word.
fn tensor_of(info: TensorInfo, map: &Arc<Map>) -> (String, Tensor) {
    let range = info.range.start as usize..info.range.end as usize;
    let shape = info.dims.iter().rev().map(|&d| d as usize).collect();
    let (kind, format) = (info.kind.name.into(), info.kind.format);
    (
        info.name,
        Tensor {
            map: Arc::clone(map),
            range,
            kind,
            format,
            shape,
        },
    )
}

fn summary_of(tensors: &Tensors, config: Config, tokenizer: Option<String>, has_template: bool) -> Summary {
    Summary {
        arch: config.arch.name.to_owned(),
        parameters: tensors.parameters(),
        format: tensors.main_kind(),
        context: u32::try_from(config.context).unwrap_or(u32::MAX),
        bytes: tensors.file_bytes(),
        resident_bytes: 0,
        config,
        has_tokenizer: tokenizer,
        has_template,
    }
}
