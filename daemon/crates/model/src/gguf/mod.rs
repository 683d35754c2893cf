//! GGUF, versions 2 and 3, as the GGML project specifies it. Invariant: nothing in the file is believed before it is
//! checked; no count allocates more than the file's own length allows.

pub(crate) mod config;
mod cursor;
mod error;
mod kinds;
mod metadata;
mod tensors;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use config::evenly;
pub use error::GgufError;
pub use kinds::{KINDS, TensorKind};
pub use metadata::Metadata;
pub use tensors::TensorInfo;
pub use value::{Array, Value, ValueKind};

use cursor::Cursor;
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 24;

/// A checked header.
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the header at the start of `file`, which is the whole file: lengths are checked against it.
    pub fn parse(file: &[u8]) -> Result<Gguf, GgufError> {
        let mut cursor = Cursor::new(file, 0);
        read_version(&mut cursor)?;
        let tensor_count = tensors::read_count(&mut cursor)?;
        let key_count = metadata::read_count(&mut cursor)?;
        let (metadata, end) = Metadata::read(file, cursor.at(), key_count)?;
        if let Some(count) = metadata.uint("split.count")?.filter(|&count| count > 1) {
            return Err(GgufError::Split { count });
        }
        let alignment = alignment(&metadata)?;
        let mut cursor = Cursor::new(file, end);
        let mut tensors = tensors::read(&mut cursor, tensor_count)?;
        let data_start = (cursor.at() as u64).next_multiple_of(alignment);
        tensors::place(&mut tensors, data_start, alignment, file.len() as u64)?;
        Ok(Gguf { metadata, tensors })
    }

    /// Maps a file and reads its header. It may be a vocabulary without tensors.
    pub fn open(path: &Path) -> Result<Gguf, crate::OpenError> {
        let map = crate::map::Map::open(path).map_err(|source| crate::OpenError::map(path, source))?;
        Gguf::parse(map.bytes()).map_err(|source| crate::OpenError::gguf(path, source))
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors, in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub(crate) fn into_parts(self) -> (Metadata, Vec<TensorInfo>) {
        (self.metadata, self.tensors)
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<(), GgufError> {
    let magic = cursor.take(4, "the magic bytes")?;
    if magic != MAGIC {
        return Err(GgufError::Magic {
            found: magic.to_vec(),
        });
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        version if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
        version => Err(GgufError::Version { version }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata.uint("general.alignment")?.unwrap_or(ALIGNMENT_DEFAULT);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(GgufError::Alignment {
            alignment,
            max: ALIGNMENT_MAX,
        });
    }
    Ok(alignment)
}
