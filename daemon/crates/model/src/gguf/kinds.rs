//! GGML's tensor types: one table. Invariant: every type that a file may hold has a row, computed here or not, so that
//! lengths can always be checked.

use hyprstream_kernels::Format;

/// A tensor type.
#[derive(Debug, PartialEq)]
pub struct TensorKind {
    /// GGML's number.
    pub id: u32,
    /// GGML's name.
    pub name: &'static str,
    /// Values in a block.
    pub block_len: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// The kernels' format, for those that are computed.
    pub format: Option<Format>,
}

const fn stored(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> TensorKind {
    TensorKind {
        id,
        name,
        block_len,
        block_bytes,
        format: None,
    }
}

const fn computed(id: u32, format: Format) -> TensorKind {
    let (block_len, block_bytes) = (format.block_len() as u64, format.block_bytes() as u64);
    TensorKind {
        id,
        name: format.name(),
        block_len,
        block_bytes,
        format: Some(format),
    }
}

/// Every type, by rising number.
pub static KINDS: [TensorKind; 34] = [
    computed(0, Format::F32),
    computed(1, Format::F16),
    computed(2, Format::Q4_0),
    computed(3, Format::Q4_1),
    computed(6, Format::Q5_0),
    computed(7, Format::Q5_1),
    computed(8, Format::Q8_0),
    stored(9, "Q8_1", 32, 36),
    computed(10, Format::Q2_K),
    computed(11, Format::Q3_K),
    computed(12, Format::Q4_K),
    computed(13, Format::Q5_K),
    computed(14, Format::Q6_K),
    stored(15, "Q8_K", 256, 292),
    stored(16, "IQ2_XXS", 256, 66),
    stored(17, "IQ2_XS", 256, 74),
    stored(18, "IQ3_XXS", 256, 98),
    stored(19, "IQ1_S", 256, 50),
    computed(20, Format::IQ4_NL),
    stored(21, "IQ3_S", 256, 110),
    stored(22, "IQ2_S", 256, 82),
    computed(23, Format::IQ4_XS),
    stored(24, "I8", 1, 1),
    stored(25, "I16", 1, 2),
    stored(26, "I32", 1, 4),
    stored(27, "I64", 1, 8),
    stored(28, "F64", 1, 8),
    stored(29, "IQ1_M", 256, 56),
    computed(30, Format::BF16),
    stored(34, "TQ1_0", 256, 54),
    stored(35, "TQ2_0", 256, 66),
    computed(39, Format::MXFP4),
    stored(40, "NVFP4", 64, 36),
    stored(41, "Q1_0", 128, 18),
];

/// Numbers that once meant something.
pub(super) static DROPPED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl TensorKind {
    /// The type of this number.
    pub fn by_id(id: u32) -> Option<&'static TensorKind> {
        KINDS.binary_search_by_key(&id, |k| k.id).ok().map(|i| &KINDS[i])
    }
    /// GGML's number of a format.
    pub fn of(format: Format) -> u32 {
        let kind = KINDS.iter().find(|kind| kind.format == Some(format));
        kind.map_or(u32::MAX, |kind| kind.id)
    }
}
