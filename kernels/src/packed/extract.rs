//! Blocks as files have them, taken apart: codes in order of columns, scales as numbers.
//!
//! Invariant: nothing is rounded; what comes out is what the file says.

use crate::quant::Format;

/// One block of a row. What a format does not have stays zero.
pub(super) struct Block {
    /// f16 bits of the scale.
    pub d: [u8; 2],
    /// f16 bits of the minimum, or of the factor of the minimums.
    pub dmin: [u8; 2],
    /// A scale for each group, or the exponent.
    pub scales: [u8; 16],
    pub mins: [u8; 16],
    /// The codes before the table.
    pub codes: [u8; 256],
}

impl Block {
    pub(super) const ZERO: Block = Block {
        d: [0; 2],
        dmin: [0; 2],
        scales: [0; 16],
        mins: [0; 16],
        codes: [0; 256],
    };

    /// Takes over a block of `format`, whose bytes are exactly `bytes`. Plain formats leave it as it is.
    pub(super) fn read(&mut self, format: Format, bytes: &[u8]) {
        match format {
            Format::F32 | Format::F16 | Format::BF16 => (),
            Format::Q8_0 => {
                self.d = [bytes[0], bytes[1]];
                for (code, q) in self.codes.iter_mut().zip(&bytes[2..34]) {
                    *code = q ^ 128;
                }
            }
            Format::Q4_0 | Format::IQ4_NL => {
                self.d = [bytes[0], bytes[1]];
                self.nibbles(0, &bytes[2..18]);
            }
            Format::Q4_1 => {
                (self.d, self.dmin) = ([bytes[0], bytes[1]], [bytes[2], bytes[3]]);
                self.nibbles(0, &bytes[4..20]);
            }
            Format::Q5_0 => {
                self.d = [bytes[0], bytes[1]];
                self.nibbles(0, &bytes[6..22]);
                self.fifth_bits(&bytes[2..6]);
            }
            Format::Q5_1 => {
                (self.d, self.dmin) = ([bytes[0], bytes[1]], [bytes[2], bytes[3]]);
                self.nibbles(0, &bytes[8..24]);
                self.fifth_bits(&bytes[4..8]);
            }
            Format::MXFP4 => {
                self.scales[0] = bytes[0];
                self.nibbles(0, &bytes[1..17]);
            }
            Format::Q2_K => {
                (self.d, self.dmin) = ([bytes[80], bytes[81]], [bytes[82], bytes[83]]);
                for (group, byte) in bytes[..16].iter().enumerate() {
                    (self.scales[group], self.mins[group]) = (byte & 15, byte >> 4);
                }
                self.pairs(&bytes[16..80]);
            }
            Format::Q3_K => {
                self.d = [bytes[108], bytes[109]];
                self.scales_of_q3k(&bytes[96..108]);
                self.pairs(&bytes[32..96]);
                self.top_bits(&bytes[..32], 2);
            }
            Format::IQ4_XS => {
                self.d = [bytes[0], bytes[1]];
                let high = u16::from_le_bytes([bytes[2], bytes[3]]);
                for group in 0..8 {
                    let low = bytes[4 + group / 2] >> (group % 2 * 4) & 15;
                    let scale = low | ((high >> (2 * group)) as u8 & 3) << 4;
                    self.scales[group] = scale.wrapping_sub(32);
                }
                for (group, q) in bytes[8..136].chunks_exact(16).enumerate() {
                    self.nibbles(32 * group, q);
                }
            }
            Format::Q4_K => {
                self.head(bytes);
                for (quarter, q) in bytes[16..144].chunks_exact(32).enumerate() {
                    self.nibbles(64 * quarter, q);
                }
            }
            Format::Q5_K => {
                self.head(bytes);
                for (quarter, q) in bytes[48..176].chunks_exact(32).enumerate() {
                    self.nibbles(64 * quarter, q);
                }
                self.top_bits(&bytes[16..48], 4);
            }
            Format::Q6_K => {
                self.d = [bytes[208], bytes[209]];
                self.scales.copy_from_slice(&bytes[192..208]);
                for half in 0..2 {
                    self.nibbles(128 * half, &bytes[64 * half..64 * half + 64]);
                    let high = &bytes[128 + 32 * half..160 + 32 * half];
                    let codes = &mut self.codes[128 * half..128 * half + 128];
                    for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
                        for (code, high) in codes.iter_mut().zip(high) {
                            *code |= (high >> (2 * quarter) & 3) << 4;
                        }
                    }
                }
            }
        }
    }

    /// Codes from `at`: the low nibbles of all bytes, then the high ones.
    fn nibbles(&mut self, at: usize, bytes: &[u8]) {
        let (low, high) = self.codes[at..at + 2 * bytes.len()].split_at_mut(bytes.len());
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }

    /// Codes of pairs: each half of 128 has 32 bytes, of which quarter k takes bits 2k and 2k + 1.
    fn pairs(&mut self, bytes: &[u8]) {
        for (codes, bytes) in self.codes.chunks_exact_mut(128).zip(bytes.chunks_exact(32)) {
            for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
                for (code, byte) in codes.iter_mut().zip(bytes) {
                    *code = byte >> (2 * quarter) & 3;
                }
            }
        }
    }

    /// One more bit for each code, of weight `1 << at`: bit g of byte i is for code i of the g-th 32.
    fn top_bits(&mut self, bytes: &[u8], at: u32) {
        for (group, codes) in self.codes.chunks_exact_mut(32).enumerate() {
            for (code, high) in codes.iter_mut().zip(bytes) {
                *code |= (high >> group & 1) << at;
            }
        }
    }

    /// The fifth bits of 32 codes, in order.
    fn fifth_bits(&mut self, bytes: &[u8]) {
        for (codes, byte) in self.codes.chunks_exact_mut(8).zip(bytes) {
            for (bit, code) in codes.iter_mut().enumerate() {
                *code |= (byte >> bit & 1) << 4;
            }
        }
    }

    /// Sixteen 6-bit scales plus 32: four bits of each in the nibbles of eight bytes, two in the four after them.
    fn scales_of_q3k(&mut self, packed: &[u8]) {
        for (group, scale) in self.scales.iter_mut().enumerate() {
            let low = packed[group % 8] >> (group / 8 * 4) & 15;
            let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
            *scale = (low | high << 4).wrapping_sub(32);
        }
    }

    /// f16 d, f16 dmin and eight pairs of 6-bit scale and minimum in 12 bytes: the first four groups have a byte each;
    /// the others have nibbles, and their upper bits at the top of those bytes.
    fn head(&mut self, bytes: &[u8]) {
        (self.d, self.dmin) = ([bytes[0], bytes[1]], [bytes[2], bytes[3]]);
        let packed = &bytes[4..16];
        for g in 0..4 {
            (self.scales[g], self.mins[g]) = (packed[g] & 63, packed[g + 4] & 63);
            self.scales[g + 4] = packed[g + 8] & 15 | packed[g] >> 6 << 4;
            self.mins[g + 4] = packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4;
        }
    }
}
