//! The safetensors files of a folder. Invariant: no path leaves the folder, and every tensor lies inside its file.

use super::{HfError, read_json};
use crate::map::{Map, MapError};
use crate::tensors::{Tensor, Tensors};
use hyprstream_kernels::Format;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Component, Path};
use std::sync::Arc;

/// The one file of a small model.
pub(super) const SINGLE: &str = "model.safetensors";
/// The list of a large model's files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Largest models in use have about 200 files.
const SHARDS_MAX: usize = 1024;
const INDEX_BYTES_MAX: u64 = 32 << 20;
/// About 40 thousand tensors.
const HEADER_BYTES_MAX: u64 = 16 << 20;
const TENSORS_MAX: usize = 65_536;
const LENGTH_BYTES: u64 = 8;

/// Maps the files: `only` if given, else the single file, else those that the index names.
pub(super) fn open(folder: &Path, only: Option<&str>) -> Result<Tensors, HfError> {
    let mut tensors = Tensors::default();
    if let Some(index) = index_for(folder, only)? {
        let (files, names) = files_of(&index)?;
        for file in files {
            add(&mut tensors, folder, file)?;
        }
        if let Some((name, file)) = names
            .iter()
            .find(|(name, _)| !tensors.by_name.contains_key(*name))
        {
            let (tensor, file) = ((*name).to_owned(), (*file).to_owned());
            return Err(HfError::IndexTensor { tensor, file });
        }
    } else {
        add(&mut tensors, folder, only.unwrap_or(SINGLE))?;
    }
    Ok(tensors)
}

/// The index, if it is what names the files. A file that was asked for by name needs it only if it is one of its shards.
fn index_for(folder: &Path, only: Option<&str>) -> Result<Option<Value>, HfError> {
    if only.is_none() && folder.join(SINGLE).exists() {
        return Ok(None);
    }
    let index = read_json(folder, INDEX, INDEX_BYTES_MAX)?;
    match (index, only) {
        (Some(index), None) => Ok(Some(index)),
        (Some(index), Some(only)) => {
            let listed = files_of(&index)?.0.contains(only);
            Ok(listed.then_some(index))
        }
        (None, None) => Err(HfError::NoWeights),
        (None, Some(_)) => Ok(None),
    }
}

type IndexFiles<'a> = (BTreeSet<&'a str>, Vec<(&'a str, &'a str)>);

fn files_of(index: &Value) -> Result<IndexFiles<'_>, HfError> {
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|m| !m.is_empty());
    let map = map.ok_or(HfError::IndexShape {
        what: "weight_map, a list of tensors with their files",
    })?;
    if map.len() > TENSORS_MAX {
        return Err(HfError::TooMany {
            what: "tensors",
            count: map.len(),
            max: TENSORS_MAX,
        });
    }
    let mut names = Vec::with_capacity(map.len());
    for (name, file) in map {
        let file = file.as_str().ok_or(HfError::IndexShape {
            what: "a file name for each tensor",
        })?;
        if !is_inside(file) {
            return Err(HfError::IndexPath {
                file: file.to_owned(),
            });
        }
        names.push((name.as_str(), file));
    }
    let files: BTreeSet<&str> = names.iter().map(|n| n.1).collect();
    if files.len() > SHARDS_MAX {
        return Err(HfError::TooMany {
            what: "files",
            count: files.len(),
            max: SHARDS_MAX,
        });
    }
    Ok((files, names))
}

/// Whether a path stays below the folder it is joined to.
fn is_inside(file: &str) -> bool {
    let normal = |c| matches!(c, Component::Normal(_));
    !file.is_empty() && !file.contains('\0') && Path::new(file).components().all(normal)
}

fn add(tensors: &mut Tensors, folder: &Path, file: &str) -> Result<(), HfError> {
    let map = Map::open(&folder.join(file)).map_err(|source| match source {
        MapError::Io(e) if e.kind() == std::io::ErrorKind::NotFound => HfError::FileMissing {
            file: file.to_owned(),
        },
        source => HfError::Map {
            file: file.to_owned(),
            source,
        },
    })?;
    let map = Arc::new(map);
    let (data_start, metadata) = read_header(file, map.bytes())?;
    tensors.maps.push(Arc::clone(&map));
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let range = data_start + start..data_start + end;
        let (kind, format) = kind_of(info.dtype);
        let shape = info.shape.clone();
        let tensor = Tensor {
            map: Arc::clone(&map),
            range,
            kind,
            format,
            shape,
        };
        if tensors.by_name.insert(name.clone(), tensor).is_some() {
            return Err(HfError::TensorTwice { tensor: name });
        }
    }
    if tensors.by_name.len() > TENSORS_MAX {
        return Err(HfError::TooMany {
            what: "tensors",
            count: tensors.by_name.len(),
            max: TENSORS_MAX,
        });
    }
    Ok(())
}

/// The header, and where the data starts. What the crate's own reader adds up without checking is checked here, and the
/// header is copied before it is believed, since the bytes may be a map.
fn read_header(file: &str, bytes: &[u8]) -> Result<(usize, Metadata), HfError> {
    let has = bytes.len() as u64;
    let length = |needs| HfError::Length {
        file: file.to_owned(),
        needs,
        has,
    };
    let len: [u8; 8] = *bytes.first_chunk().ok_or_else(|| length(LENGTH_BYTES))?;
    let len = u64::from_le_bytes(len);
    if len > HEADER_BYTES_MAX {
        return Err(HfError::HeaderTooLong {
            file: file.to_owned(),
            len,
            max: HEADER_BYTES_MAX,
        });
    }
    let data_start = LENGTH_BYTES + len;
    let header = bytes
        .get(LENGTH_BYTES as usize..data_start as usize)
        .ok_or_else(|| length(data_start))?;
    let header = header.to_vec();
    let parsed = serde_json::from_slice::<Metadata>(&header);
    let metadata = parsed.map_err(|source| HfError::Json {
        file: file.to_owned(),
        source,
    })?;
    // Offsets follow each other without gaps, which was checked; so the last end is the length of the data.
    let end = metadata
        .tensors()
        .values()
        .map(|info| info.data_offsets.1 as u64)
        .max()
        .unwrap_or(0);
    match data_start.checked_add(end) {
        Some(end) if end == has => Ok((data_start as usize, metadata)),
        end => Err(length(end.unwrap_or(u64::MAX))),
    }
}

fn kind_of(dtype: Dtype) -> (Cow<'static, str>, Option<Format>) {
    let format = match dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        other => return (format!("{other:?}").into(), None),
    };
    (format.name().into(), Some(format))
}
