//! Weight formats: how many values a block holds, how many bytes it takes, and how to decode rows of blocks.
//!
//! Invariant: block sizes are those of the GGUF specification; every decoder gives exactly the floats of `reference`.

pub(crate) mod decode;

use std::marker::PhantomData;

use decode::Decoder;

use crate::isa::Isa;
use crate::simd::{Kernel, Level, Simd};

/// How a tensor's values are stored. The names are GGML's.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// Blocks of 32: f16 scale, 32 signed bytes.
    Q8_0,
    /// Blocks of 32: f16 scale, 32 4-bit values minus 8.
    Q4_0,
    /// Blocks of 256: eight groups of 32 with 6-bit scale and minimum, 4-bit values.
    Q4_K,
    /// Blocks of 256: as `Q4_K` with 5-bit values.
    Q5_K,
    /// Blocks of 256: sixteen groups of 16 with 8-bit scales, 6-bit values minus 32.
    Q6_K,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 8] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q4_K | Format::Q5_K | Format::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
        }
    }

    /// Bytes of a row of `cols` values; `None` if `cols` is not a whole number of blocks, or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// GGML's name.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
        }
    }
}

/// Calls `$body` with `$D` standing for the decoder of a format.
macro_rules! with_decoder {
    ($format:expr, $D:ident => $body:expr) => {{
        use $crate::quant::decode;
        match $format {
            $crate::quant::Format::F32 => {
                type $D = decode::F32;
                $body
            }
            $crate::quant::Format::F16 => {
                type $D = decode::F16;
                $body
            }
            $crate::quant::Format::BF16 => {
                type $D = decode::BF16;
                $body
            }
            $crate::quant::Format::Q8_0 => {
                type $D = decode::Q8_0;
                $body
            }
            $crate::quant::Format::Q4_0 => {
                type $D = decode::Q4_0;
                $body
            }
            $crate::quant::Format::Q4_K => {
                type $D = decode::Q4K;
                $body
            }
            $crate::quant::Format::Q5_K => {
                type $D = decode::Q5K;
                $body
            }
            $crate::quant::Format::Q6_K => {
                type $D = decode::Q6K;
                $body
            }
        }
    }};
}
pub(crate) use with_decoder;

/// Decodes whole blocks into floats: an embedding's row, or any run of blocks. Runs on the calling thread.
///
/// # Panics
/// If `out` is not a whole number of blocks, or `bytes` does not hold exactly that many.
pub fn decode_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    decode_row_at(Level::default(), format, bytes, out);
}

/// As `decode_row`, with the instructions of a chosen level, or of the best below it.
///
/// # Panics
/// As `decode_row`.
pub fn decode_row_with(isa: Isa, format: Format, bytes: &[u8], out: &mut [f32]) {
    decode_row_at(Level::of(isa), format, bytes, out);
}

fn decode_row_at(level: Level, format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(bytes.len()),
        "bytes and values agree"
    );
    with_decoder!(format, D => level.run(Row::<D> { bytes, out, decoder: PhantomData }));
}

struct Row<'a, D> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    decoder: PhantomData<D>,
}

impl<D: Decoder> Kernel for Row<'_, D> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        decode::decode_into::<S, D>(s, self.bytes, self.out);
    }
}
