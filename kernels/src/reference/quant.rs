//! Decoders written down from GGML's block definitions, one value at a time.
//!
//! Invariant: products of scale and value are exact in f32 (24 bits at most), so there is one right answer.

use half::{bf16, f16};

use crate::quant::Format;

/// Decodes whole blocks; same contract as the crate's `decode_row`.
pub fn decode_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    let block = match format {
        Format::F32 => f32_block,
        Format::F16 => f16_block,
        Format::BF16 => bf16_block,
        Format::Q8_0 => q8_0_block,
        Format::Q4_0 => q4_0_block,
        Format::Q4_1 => q4_1_block,
        Format::Q5_0 => q5_0_block,
        Format::Q5_1 => q5_1_block,
        Format::Q2_K => q2_k_block,
        Format::Q3_K => q3_k_block,
        Format::Q4_K => q4_k_block,
        Format::Q5_K => q5_k_block,
        Format::Q6_K => q6_k_block,
        Format::IQ4_NL => iq4_nl_block,
        Format::IQ4_XS => iq4_xs_block,
        Format::MXFP4 => mxfp4_block,
    };
    let blocks = bytes.chunks_exact(format.block_bytes());
    for (bytes, out) in blocks.zip(out.chunks_exact_mut(format.block_len())) {
        block(bytes, out);
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn f32_block(b: &[u8], out: &mut [f32]) {
    out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
}

fn f16_block(b: &[u8], out: &mut [f32]) {
    out[0] = half_at(b, 0);
}

fn bf16_block(b: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32();
}

/// f16 d; i8 q[32]. value = d * q
fn q8_0_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(b[2 + i] as i8);
    }
}

/// f16 d; u8 q[16]: low nibbles are values 0..16, high nibbles 16..32. value = d * (q - 8)
fn q4_0_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, value) in out.iter_mut().enumerate() {
        let q = if i < 16 { b[2 + i] & 15 } else { b[2 + i - 16] >> 4 };
        *value = d * (f32::from(q) - 8.0);
    }
}

/// The 4-bit value `i` of 16 bytes: low nibbles are values 0..16, high nibbles 16..32.
fn nibble(q: &[u8], i: usize) -> u8 {
    if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 }
}

/// f16 d, m; u8 q[16]. value = d * q + m
fn q4_1_block(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(nibble(&b[4..], i)) + m;
    }
}

/// f16 d; u8 high[4]: bit `i` is the fifth of value `i`; u8 q[16]. value = d * (q - 16)
fn q5_0_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, value) in out.iter_mut().enumerate() {
        let high = (b[2 + i / 8] >> (i % 8)) & 1;
        *value = d * (f32::from(nibble(&b[6..], i) | (high << 4)) - 16.0);
    }
}

/// f16 d, m; u8 high[4]; u8 q[16]. value = d * q + m
fn q5_1_block(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, value) in out.iter_mut().enumerate() {
        let high = (b[4 + i / 8] >> (i % 8)) & 1;
        *value = d * f32::from(nibble(&b[8..], i) | (high << 4)) + m;
    }
}

/// The sixteen steps of IQ4_NL and IQ4_XS.
const IQ4_STEPS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// f16 d; u8 q[16]. value = d * step(q)
fn iq4_nl_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, value) in out.iter_mut().enumerate() {
        *value = d * IQ4_STEPS[usize::from(nibble(&b[2..], i))];
    }
}

/// u8 e; u8 q[16]. value = 2^(e - 127) * q, where q is a float of one sign, two exponent and one mantissa bit.
fn mxfp4_block(b: &[u8], out: &mut [f32]) {
    let scale = 2_f64.powi(i32::from(b[0]) - 127);
    for (i, value) in out.iter_mut().enumerate() {
        let q = nibble(&b[1..], i);
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(q & 7)];
        *value = (if q < 8 {
            scale * magnitude
        } else {
            -scale * magnitude
        }) as f32;
    }
}

/// u8 scales[16]: low nibble scale, high nibble minimum; u8 q[64]; f16 d, dmin. Each half of 128 values has 32 bytes,
/// of which quarter `k` (32 values) takes bits 2k... value = d * scale * q - dmin * min
fn q2_k_block(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let q = (b[16 + half * 32 + lane] >> (2 * quarter)) & 3;
        let (scale, min) = (b[i / 16] & 15, b[i / 16] >> 4);
        *value = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

/// u8 high[32]: bit `g` of byte `lane` is the third bit of group `g` (of 32 values); u8 q[64] as in Q2_K; u8 scales[12]:
/// four bits of each in the nibbles of the first eight, two more in the last four; f16 d. value = d * (scale - 32) * (q - 4)
fn q3_k_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 108);
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = (b[32 + half * 32 + lane] >> (2 * quarter)) & 3;
        let high = (b[lane] >> (i / 32)) & 1;
        let (group, packed) = (i / 16, &b[96..108]);
        let scale = if group < 8 {
            packed[group] & 15
        } else {
            packed[group - 8] >> 4
        };
        let scale = scale | (((packed[8 + group % 4] >> (2 * (group / 4))) & 3) << 4);
        *value = d * (f32::from(scale) - 32.0) * (f32::from(low | (high << 2)) - 4.0);
    }
}

/// f16 d; u16 high: two bits of each scale; u8 low[4]: four bits of each; u8 q[128]: 16 bytes a group of 32.
/// value = d * (scale - 32) * step(q)
fn iq4_xs_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    let highs = u16::from_le_bytes([b[2], b[3]]);
    for (i, value) in out.iter_mut().enumerate() {
        let group = i / 32;
        let low = if group % 2 == 0 {
            b[4 + group / 2] & 15
        } else {
            b[4 + group / 2] >> 4
        };
        let scale = u16::from(low) | (((highs >> (2 * group)) & 3) << 4);
        let q = nibble(&b[8 + 16 * group..], i % 32);
        *value = d * (f32::from(scale) - 32.0) * IQ4_STEPS[usize::from(q)];
    }
}

/// 6-bit scale and minimum of group `g` (of 8) from the 12 packed bytes of Q4_K and Q5_K.
fn scale_and_min(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (
            (packed[g + 4] & 15) | ((packed[g - 4] >> 6) << 4),
            (packed[g + 4] >> 4) | ((packed[g] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(min))
}

/// f16 d, dmin; u8 scales[12]; u8 q[128]: 32 bytes hold group 2j in their low and 2j + 1 in their high nibbles.
/// value = d * scale * q - dmin * min
fn q4_k_block(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (i, value) in out.iter_mut().enumerate() {
        let (group, lane) = (i / 32, i % 32);
        let (scale, min) = scale_and_min(&b[4..16], group);
        let byte = b[16 + group / 2 * 32 + lane];
        let q = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
        *value = d * scale * f32::from(q) - dmin * min;
    }
}

/// As Q4_K, with u8 high[32] before q: bit `g` of byte `lane` is the fifth bit of group `g`.
fn q5_k_block(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (i, value) in out.iter_mut().enumerate() {
        let (group, lane) = (i / 32, i % 32);
        let (scale, min) = scale_and_min(&b[4..16], group);
        let byte = b[48 + group / 2 * 32 + lane];
        let low = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
        let high = (b[16 + lane] >> group) & 1;
        *value = d * scale * f32::from(low | (high << 4)) - dmin * min;
    }
}

/// u8 low[128]; u8 high[64]; i8 scales[16]; f16 d. Each half of 128 values has 64 low and 32 high bytes; quarter `k`
/// of it (32 values) takes nibble k / 2 of low[32 * (k % 2)..] and bits 2k.. of high. value = d * scale * (q - 32)
fn q6_k_block(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 208);
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let byte = b[half * 64 + quarter % 2 * 32 + lane];
        let low = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let high = (b[128 + half * 32 + lane] >> (2 * quarter)) & 3;
        let scale = f32::from(b[192 + i / 16] as i8);
        *value = d * scale * (f32::from(low | (high << 4)) - 32.0);
    }
}
