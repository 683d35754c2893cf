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
    /// Blocks of 32: f16 scale and minimum, 32 4-bit values.
    Q4_1,
    /// Blocks of 32: f16 scale, 32 5-bit values minus 16.
    Q5_0,
    /// Blocks of 32: f16 scale and minimum, 32 5-bit values.
    Q5_1,
    /// Blocks of 256: sixteen groups of 16 with 4-bit scale and minimum, 2-bit values.
    Q2_K,
    /// Blocks of 256: sixteen groups of 16 with 6-bit scales, 3-bit values minus 4.
    Q3_K,
    /// Blocks of 256: eight groups of 32 with 6-bit scale and minimum, 4-bit values.
    Q4_K,
    /// Blocks of 256: as `Q4_K` with 5-bit values.
    Q5_K,
    /// Blocks of 256: sixteen groups of 16 with 8-bit scales, 6-bit values minus 32.
    Q6_K,
    /// Blocks of 32: f16 scale, 32 4-bit indexes into a table of sixteen uneven steps.
    IQ4_NL,
    /// Blocks of 256: eight groups of 32 with 6-bit scales, values as in `IQ4_NL`.
    IQ4_XS,
    /// Blocks of 32: a power of two, 32 4-bit floats (the Open Compute Project's microscaling format).
    MXFP4,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 16] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::MXFP4,
    ];

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => 32,
            Format::IQ4_NL | Format::MXFP4 => 32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => 256,
            Format::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_NL => 18,
            Format::IQ4_XS => 136,
            Format::MXFP4 => 17,
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
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::IQ4_NL => "IQ4_NL",
            Format::IQ4_XS => "IQ4_XS",
            Format::MXFP4 => "MXFP4",
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
            $crate::quant::Format::Q4_1 => {
                type $D = decode::Q4_1;
                $body
            }
            $crate::quant::Format::Q5_0 => {
                type $D = decode::Q5_0;
                $body
            }
            $crate::quant::Format::Q5_1 => {
                type $D = decode::Q5_1;
                $body
            }
            $crate::quant::Format::Q2_K => {
                type $D = decode::Q2K;
                $body
            }
            $crate::quant::Format::Q3_K => {
                type $D = decode::Q3K;
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
            $crate::quant::Format::IQ4_NL => {
                type $D = decode::IQ4NL;
                $body
            }
            $crate::quant::Format::IQ4_XS => {
                type $D = decode::IQ4XS;
                $body
            }
            $crate::quant::Format::MXFP4 => {
                type $D = decode::MXFP4;
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
