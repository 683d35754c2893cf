//! What can be wrong with a GGUF file. Invariant: every message says what, where, and what to do about it.

/// Why a GGUF file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Other magic bytes.
    #[error("not a GGUF file: it starts with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// Written on a big-endian machine.
    #[error(
        "a big-endian GGUF file; convert it to little-endian (gguf_convert_endian.py of the gguf package)"
    )]
    BigEndian,
    /// A version that is not known.
    #[error("GGUF version {version}; versions 2 and 3 are read, so convert the model again")]
    Version {
        /// The version in the file.
        version: u32,
    },
    /// The file ends inside the header.
    #[error(
        "the file ends at byte {file_len} inside {what}, which starts at byte {at} and needs {needs} bytes; copy or download it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        at: u64,
        /// Its length.
        needs: u64,
        /// The file's length.
        file_len: u64,
    },
    /// The file ends before a tensor's last byte.
    #[error(
        "tensor {tensor} ends at byte {end}, but the file has {file_len} bytes; copy or download it again"
    )]
    TensorTruncated {
        /// Its name.
        tensor: String,
        /// Where it ends.
        end: u64,
        /// The file's length.
        file_len: u64,
    },
    /// More entries than the rest of the file could hold.
    #[error(
        "the header claims {count} {what} at byte {at}, but only {left} bytes follow; copy or download it again"
    )]
    Count {
        /// Entries of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// Where the count stands.
        at: u64,
        /// Bytes after it.
        left: u64,
    },
    /// More entries than any real model has.
    #[error("the header claims {count} {what}; at most {max} are read")]
    TooMany {
        /// Entries of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// A name or key longer than allowed.
    #[error("a {what} of {len} bytes at byte {at}; at most {max} are allowed")]
    TooLong {
        /// A key or a tensor name.
        what: &'static str,
        /// Its length.
        len: u64,
        /// Where it starts.
        at: u64,
        /// The limit.
        max: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        at: u64,
    },
    /// Text in an array that is not UTF-8.
    #[error("entry {index} of {key} is not UTF-8")]
    EntryUtf8 {
        /// The array's key.
        key: String,
        /// Which entry.
        index: usize,
    },
    /// A value type that GGUF does not have.
    #[error("metadata value at byte {at} has unknown type {kind}")]
    ValueKind {
        /// The type's number.
        kind: u32,
        /// Where it stands.
        at: u64,
    },
    /// Arrays in arrays in arrays ...
    #[error("arrays nested more than {max} deep at byte {at}")]
    Depth {
        /// The limit.
        max: u32,
        /// Where the deepest starts.
        at: u64,
    },
    /// A boolean other than 0 and 1.
    #[error("a boolean at byte {at} is {value}, not 0 or 1")]
    Bool {
        /// The byte.
        value: u8,
        /// Where it stands.
        at: u64,
    },
    /// One key twice.
    #[error("metadata key {key} appears twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// A value of another type than the key asks for.
    #[error("metadata key {key} holds {found}, not {wanted}")]
    WrongKind {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {alignment}, not a power of two of at most {max}")]
    Alignment {
        /// The value.
        alignment: u64,
        /// The limit.
        max: u64,
    },
    /// One tensor name twice.
    #[error("tensor {tensor} appears twice")]
    TensorTwice {
        /// Its name.
        tensor: String,
    },
    /// A tensor type that is not known.
    #[error("tensor {tensor} has unknown type {kind}; a newer hyprstream may know it")]
    TensorKind {
        /// Its name.
        tensor: String,
        /// The type's number.
        kind: u32,
    },
    /// A tensor type that GGUF has dropped.
    #[error("tensor {tensor} is {name} (type {kind}), which GGUF has dropped; convert the model again")]
    TensorKindDropped {
        /// Its name.
        tensor: String,
        /// The type's number.
        kind: u32,
        /// The type's name.
        name: &'static str,
    },
    /// Too many dimensions, or an empty one, or a product that overflows.
    #[error("tensor {tensor} has the impossible dimensions {dims:?}")]
    Dims {
        /// Its name.
        tensor: String,
        /// Its dimensions, as far as they were read.
        dims: Vec<u64>,
    },
    /// Rows that are no whole number of blocks.
    #[error("tensor {tensor} has rows of {cols} values, which {kind} cannot hold: its blocks are of {block}")]
    Blocks {
        /// Its name.
        tensor: String,
        /// Values in a row.
        cols: u64,
        /// Its type.
        kind: &'static str,
        /// Values in a block.
        block: u64,
    },
    /// Where a tensor starts overflows or is not aligned.
    #[error(
        "tensor {tensor} starts at offset {offset}, which is not a multiple of {alignment} inside the file"
    )]
    Offset {
        /// Its name.
        tensor: String,
        /// Its offset in the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// The one before.
        first: String,
        /// The one after.
        second: String,
    },
    /// One part of several.
    #[error(
        "one of {count} parts of a split model; merge them with `llama-gguf-split --merge` and use the result"
    )]
    Split {
        /// How many parts there are.
        count: u64,
    },
    /// Nothing but metadata.
    #[error("the file holds a vocabulary but no tensors; it is not a model")]
    NoTensors,
}

impl GgufError {
    /// Whether a file that is still being written would look like this.
    pub fn is_incomplete(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. } | Self::TensorTruncated { .. } | Self::Count { .. }
        )
    }
}
