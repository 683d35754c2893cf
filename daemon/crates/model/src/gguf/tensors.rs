//! The list of tensors in a GGUF header. Invariant: what it returns lies inside the file, aligned, apart from the others,
//! and as long as its type and dimensions say.

use super::kinds::{DROPPED, TensorKind};
use super::{GgufError, cursor::Cursor};
use std::ops::Range;

/// More tensors than any real model has (about 5000 in the largest mixtures of experts).
const TENSORS_MAX: u64 = 65_536;
/// GGML allows 64.
const NAME_BYTES_MAX: u64 = 256;
/// GGML's limit.
const DIMS_MAX: u32 = 4;
/// A name's length, the number of dimensions, the type and the offset.
const INFO_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

/// One tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub kind: &'static TensorKind,
    /// Values in each dimension, fastest first: a matrix is `[cols, rows]`.
    pub dims: Vec<u64>,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

/// Checks the count of tensors, before they are read.
pub(super) fn read_count(cursor: &mut Cursor<'_>) -> Result<u64, GgufError> {
    let count = cursor.count("tensors", INFO_BYTES_MIN)?;
    if count > TENSORS_MAX {
        return Err(GgufError::TooMany {
            what: "tensors",
            count,
            max: TENSORS_MAX,
        });
    }
    Ok(count)
}

/// Reads the list, with offsets still relative to the data.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    (0..count).map(|_| read_one(cursor)).collect()
}

fn read_one(cursor: &mut Cursor<'_>) -> Result<TensorInfo, GgufError> {
    let at = cursor.at() as u64;
    // The bytes may change under a map, so they are copied before they are checked to be UTF-8.
    let name = cursor.string("tensor name")?;
    if name.len() as u64 > NAME_BYTES_MAX {
        let len = name.len() as u64;
        return Err(GgufError::TooLong {
            what: "tensor name",
            len,
            at,
            max: NAME_BYTES_MAX,
        });
    }
    let tensor = String::from_utf8(name.to_vec()).map_err(|_| GgufError::Utf8 {
        what: "tensor name",
        at,
    })?;
    let rank = cursor.u32("a tensor's dimensions")?;
    if rank > DIMS_MAX {
        return Err(GgufError::Dims {
            tensor,
            dims: vec![0; DIMS_MAX as usize + 1],
        });
    }
    let dims = (0..rank)
        .map(|_| cursor.u64("a tensor's dimensions"))
        .collect::<Result<Vec<_>, _>>()?;
    let id = cursor.u32("a tensor's type")?;
    let offset = cursor.u64("a tensor's offset")?;
    let kind = match (TensorKind::by_id(id), DROPPED.iter().find(|d| d.0 == id)) {
        (Some(kind), _) => kind,
        (None, Some(&(kind, name))) => return Err(GgufError::TensorKindDropped { tensor, kind, name }),
        (None, None) => return Err(GgufError::TensorKind { tensor, kind: id }),
    };
    let cols = dims.first().copied().unwrap_or(1);
    if !cols.is_multiple_of(kind.block_len) {
        return Err(GgufError::Blocks {
            tensor,
            cols,
            kind: kind.name,
            block: kind.block_len,
        });
    }
    let values = dims
        .iter()
        .try_fold(1u64, |product, &d| product.checked_mul(d).filter(|&p| p > 0));
    let bytes = values.and_then(|v| (v / kind.block_len).checked_mul(kind.block_bytes));
    let Some(end) = bytes.and_then(|b| offset.checked_add(b)) else {
        return Err(GgufError::Dims { tensor, dims });
    };
    Ok(TensorInfo {
        name: tensor,
        kind,
        dims,
        range: offset..end,
    })
}

/// Turns offsets into places in the file, and checks them all.
pub(super) fn place(
    tensors: &mut [TensorInfo],
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), GgufError> {
    for t in tensors.iter_mut() {
        let offset = t.range.start;
        let placed = data_start
            .checked_add(offset)
            .zip(data_start.checked_add(t.range.end));
        let Some((start, end)) = placed.filter(|_| offset.is_multiple_of(alignment)) else {
            return Err(GgufError::Offset {
                tensor: t.name.clone(),
                offset,
                alignment,
            });
        };
        if end > file_len {
            return Err(GgufError::TensorTruncated {
                tensor: t.name.clone(),
                end,
                file_len,
            });
        }
        t.range = start..end;
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|p| p[0].name == p[1].name) {
        return Err(GgufError::TensorTwice {
            tensor: pair[0].name.clone(),
        });
    }
    tensors.sort_by_key(|t| t.range.start);
    if let Some(pair) = tensors.windows(2).find(|p| p[0].range.end > p[1].range.start) {
        let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
        return Err(GgufError::Overlap { first, second });
    }
    Ok(())
}
