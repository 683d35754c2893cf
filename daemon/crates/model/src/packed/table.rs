//! The head of a file of packed weights: whose they are, what lies where, and checksums of all of it. Invariant: a table
//! that `parse` returns describes tensors that lie inside the file, apart from each other, aligned, and as long as their
//! format and shape say; of the data themselves it says nothing until `hashes` are compared.
//!
//! Little-endian: [magic 8][layout 16][identity 32][digest 32][source bytes 8][head bytes 8][data bytes 8][tensors 4]
//! [zero 4][BLAKE3 of the head without this field 32], then the tensors: [name bytes 4][name][GGML type 4][rows 8][cols 8]
//! [offset 8][bytes 8], then one BLAKE3 a [`PIECE`] of data. Zeros up to the next page, then the data.

use crate::gguf::TensorKind;
use hyprstream_kernels::{Format, PACKED_LAYOUT, packed_bytes};

const MAGIC: &[u8; 8] = b"HYPPACK1";
const LAYOUT_BYTES: usize = 16;
/// Bytes before the checksum.
const SUMMED: usize = 120;
/// Bytes of the part that every file has.
pub(super) const HEAD: usize = SUMMED + HASH;
const HASH: usize = 32;
/// Where the data begin: a page, so that tensors are aligned in memory as they are here.
const PAGE: usize = 4096;
/// The kernels read lines of 64 bytes.
pub(super) const ALIGNMENT: usize = 64;
/// Bytes of data with a checksum of their own, so that threads share the checking.
pub(super) const PIECE: usize = 4 << 20;
const NAME_BYTES_MAX: usize = 256;

/// Which file packed weights were made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSource {
    /// Device, inode, size and time of change, as [`crate::file_identity`] gives them.
    pub identity: [u8; 32],
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
    /// Bytes of the file.
    pub bytes: u64,
}

/// One packed tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedTensor {
    /// Its name among the model's factors.
    pub name: String,
    /// How the values were stored in the source.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// First byte, counted from the beginning of the data.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// All that the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedTable {
    /// Whose weights these are.
    pub source: PackedSource,
    /// In the order of their bytes.
    pub tensors: Vec<PackedTensor>,
    /// First byte of the data in the file.
    pub data_start: usize,
    /// Bytes of data.
    pub data_len: usize,
    /// BLAKE3 of each piece of the data.
    pub hashes: Vec<[u8; 32]>,
}

/// What is wrong with a file of packed weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Not such a file.
    #[error("it does not begin as a file of packed weights does")]
    Magic,
    /// Made by another version.
    #[error("its layout is {found:?}")]
    Layout {
        /// The layout's name.
        found: String,
    },
    /// It ends early, or goes on after its end.
    #[error("it has {found} bytes; its head says {wanted}")]
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes that there should be.
        wanted: u64,
    },
    /// The head is not what was written.
    #[error("the checksum of its head is wrong")]
    Head,
    /// A tensor that cannot be.
    #[error("its tensor {index} has a wrong {what}")]
    Tensor {
        /// Which one.
        index: usize,
        /// What of it.
        what: &'static str,
    },
    /// Not the tensors of the model.
    #[error("its tensors are not those of the model")]
    Tensors,
    /// The data are not what was written.
    #[error("the checksum of its data from byte {at} is wrong")]
    Data {
        /// First byte of the piece.
        at: u64,
    },
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok()
    }
}

/// The part that every head begins with.
pub(super) struct Head {
    pub source: PackedSource,
    pub layout: String,
    head_len: u64,
    data_len: u64,
    tensors: u32,
    checksum: [u8; 32],
}

impl Head {
    /// Reads it without believing more of it than its form.
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let mut reader = Reader(bytes);
        reader.take(MAGIC.len()).filter(|magic| magic == MAGIC)?;
        let layout = reader.take(LAYOUT_BYTES)?;
        let end = layout.iter().position(|&b| b == 0).unwrap_or(layout.len());
        let layout = String::from_utf8_lossy(layout.get(..end)?).into_owned();
        let (identity, digest, bytes) = (reader.array()?, reader.array()?, reader.u64()?);
        let (head_len, data_len, tensors) = (reader.u64()?, reader.u64()?, reader.u32()?);
        reader.u32().filter(|&zero| zero == 0)?;
        Some(Head {
            source: PackedSource {
                identity,
                digest,
                bytes,
            },
            layout,
            head_len,
            data_len,
            tensors,
            checksum: reader.array()?,
        })
    }

    /// Bytes of the whole file; `None` if they overflow.
    fn file_len(&self) -> Option<u64> {
        self.data_start()?.checked_add(self.data_len)
    }

    fn data_start(&self) -> Option<u64> {
        self.head_len.checked_next_multiple_of(PAGE as u64)
    }
}

/// Reads and checks the head of `file`, which is the whole file.
pub fn parse(file: &[u8]) -> Result<PackedTable, PackedError> {
    let head = Head::read(file).ok_or(PackedError::Magic)?;
    if head.layout != PACKED_LAYOUT {
        return Err(PackedError::Layout { found: head.layout });
    }
    let found = file.len() as u64;
    let wanted = head.file_len().unwrap_or(u64::MAX);
    if found != wanted || head.head_len < HEAD as u64 {
        return Err(PackedError::Length { found, wanted });
    }
    // All of these are below the file's length, which fits.
    let (head_len, data_len) = (head.head_len as usize, head.data_len as usize);
    let data_start = head_len.next_multiple_of(PAGE);
    let whole = file.get(..head_len).unwrap_or_default();
    // Fuzzing shall get past it.
    if !cfg!(fuzzing) && checksum(whole) != head.checksum {
        return Err(PackedError::Head);
    }
    let mut reader = Reader(whole.get(HEAD..).unwrap_or_default());
    let mut tensors: Vec<PackedTensor> = Vec::new();
    for index in 0..head.tensors as usize {
        let from = tensors.last().map_or(0, |t| t.offset + t.len);
        let wrong = |what| PackedError::Tensor { index, what };
        tensors.push(tensor(&mut reader, from, data_len).map_err(wrong)?);
    }
    let pieces = data_len.div_ceil(PIECE);
    if reader.0.len() != pieces.saturating_mul(HASH) {
        return Err(PackedError::Length {
            found: reader.0.len() as u64,
            wanted: pieces.saturating_mul(HASH) as u64,
        });
    }
    Ok(PackedTable {
        source: head.source,
        tensors,
        data_start,
        data_len,
        hashes: reader.0.as_chunks::<HASH>().0.to_vec(),
    })
}

/// The next tensor, which begins at byte `from` of the data or after it.
fn tensor(reader: &mut Reader<'_>, from: usize, data_len: usize) -> Result<PackedTensor, &'static str> {
    let len = reader.u32().ok_or("name")? as usize;
    let name = reader.take(len.min(NAME_BYTES_MAX + 1)).ok_or("name")?;
    if name.len() > NAME_BYTES_MAX {
        return Err("name");
    }
    // The bytes may change under a map, so they are copied before they are checked to be UTF-8.
    let name = String::from_utf8(name.to_vec()).map_err(|_| "name")?;
    let kind = reader.u32().and_then(TensorKind::by_id);
    let format = kind.and_then(|kind| kind.format).ok_or("format")?;
    let rows = reader.size().ok_or("shape")?;
    let cols = reader.size().ok_or("shape")?;
    let offset = reader.size().ok_or("place")?;
    let len = reader.size().ok_or("place")?;
    if packed_bytes(format, rows, cols).ok_or("shape")? != len {
        return Err("length");
    }
    let end = offset.checked_add(len).ok_or("place")?;
    if offset < from || end > data_len || !offset.is_multiple_of(ALIGNMENT) {
        return Err("place");
    }
    Ok(PackedTensor {
        name,
        format,
        rows,
        cols,
        offset,
        len,
    })
}

/// BLAKE3 of a head, without the field that holds it.
fn checksum(head: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(head.get(..SUMMED).unwrap_or_default());
    hash.update(head.get(HEAD..).unwrap_or_default());
    *hash.finalize().as_bytes()
}

/// Bytes of the head for these tensors, up to where the data begin.
pub(super) fn head_bytes(tensors: &[PackedTensor], data_len: usize) -> usize {
    let entries = tensors
        .iter()
        .map(|t| 4 + t.name.len() + 4 + 4 * 8)
        .sum::<usize>();
    (HEAD + entries + data_len.div_ceil(PIECE) * HASH).next_multiple_of(PAGE)
}

/// Writes the head down, filled up to where the data begin.
pub(super) fn encode(
    source: &PackedSource,
    tensors: &[PackedTensor],
    data_len: usize,
    hashes: &[[u8; 32]],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(head_bytes(tensors, data_len));
    out.extend(MAGIC);
    let mut layout = [0; LAYOUT_BYTES];
    for (to, from) in layout.iter_mut().zip(PACKED_LAYOUT.bytes()) {
        *to = from;
    }
    out.extend(layout);
    out.extend(source.identity);
    out.extend(source.digest);
    out.extend(source.bytes.to_le_bytes());
    let entries = tensors
        .iter()
        .map(|t| 4 + t.name.len() + 4 + 4 * 8)
        .sum::<usize>();
    let head_len = HEAD + entries + hashes.len() * HASH;
    out.extend((head_len as u64).to_le_bytes());
    out.extend((data_len as u64).to_le_bytes());
    out.extend((tensors.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend([0; HASH]);
    for t in tensors {
        out.extend((t.name.len() as u32).to_le_bytes());
        out.extend(t.name.bytes());
        out.extend(TensorKind::of(t.format).to_le_bytes());
        for size in [t.rows, t.cols, t.offset, t.len] {
            out.extend((size as u64).to_le_bytes());
        }
    }
    out.extend(hashes.as_flattened());
    let sum = checksum(&out);
    if let Some(field) = out.get_mut(SUMMED..HEAD) {
        field.copy_from_slice(&sum);
    }
    out.resize(out.len().next_multiple_of(PAGE), 0);
    out
}
