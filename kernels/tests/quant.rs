//! Decoders against the `gguf` package's numbers and against the reference.
//!
//! Invariant under test: decoding is exact, on every instruction set and at any alignment.

#![allow(clippy::unwrap_used)]

mod inputs;

use hyprstream_kernels::{Format, decode_row, decode_row_with, reference};
use inputs::{Random, isas};
use proptest::prelude::*;

fn fixture(name: &str) -> (Vec<u8>, Vec<f32>) {
    let path = format!("{}/tests/fixtures/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let (len, rest) = file.split_at(4);
    let (blocks, values) = rest.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
    let values = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|v| f32::from_le_bytes(*v))
        .collect();
    (blocks.to_vec(), values)
}

#[test]
fn decoders_give_what_the_gguf_package_gives() {
    for format in Format::ALL.into_iter().filter(|format| *format != Format::F32) {
        let (blocks, expected) = fixture(format.name());
        assert!(!expected.is_empty());
        let mut out = vec![f32::NAN; expected.len()];
        reference::decode_row(format, &blocks, &mut out);
        assert_eq!(out, expected, "{}", format.name());
        decode_row(format, &blocks, &mut out);
        assert_eq!(out, expected, "{}", format.name());
    }
}

#[test]
fn infinite_and_missing_scales_decode_without_panic() {
    for format in Format::ALL {
        let bytes = vec![0xff; format.row_bytes(512).unwrap()];
        for isa in isas() {
            let mut out = vec![0.0; 512];
            decode_row_with(isa, format, &bytes, &mut out);
            // MXFP4 has no scale that is not a number; its largest overflows.
            assert!(
                out.iter().all(|v| !v.is_finite()),
                "{} {}",
                format.name(),
                isa.name()
            );
        }
    }
}

#[test]
fn every_power_of_two_of_mxfp4_decodes_exactly() {
    let blocks: Vec<u8> = (0..=u8::MAX)
        .flat_map(|e| std::iter::once(e).chain((0..16).map(|q| q << 4 | (q ^ 5))))
        .collect();
    let mut expected = vec![0.0; 256 * 32];
    reference::decode_row(Format::MXFP4, &blocks, &mut expected);
    assert_eq!(expected[..32].iter().filter(|v| **v != 0.0).count(), 28);
    for isa in isas() {
        let mut out = vec![f32::NAN; expected.len()];
        decode_row_with(isa, Format::MXFP4, &blocks, &mut out);
        assert_eq!(out, expected, "{}", isa.name());
    }
}

#[test]
fn row_bytes_refuses_what_is_no_row() {
    assert_eq!(Format::Q4_K.row_bytes(256 * 7), Some(144 * 7));
    assert_eq!(Format::Q4_K.row_bytes(255), None);
    assert_eq!(Format::Q8_0.row_bytes(33), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    assert_eq!(Format::F16.row_bytes(0), Some(0));
}

proptest! {
    #[test]
    fn decoding_is_exact(seed: u64, pick in 0..Format::ALL.len(), size in 0_usize..70, offset in 0_usize..5) {
        let format = Format::ALL[pick];
        let values = size.div_ceil(if format.block_len() == 256 { 16 } else { 1 }) * format.block_len();
        let blocks = Random(seed).blocks(format, values);
        let mut expected = vec![0.0; values];
        reference::decode_row(format, &blocks, &mut expected);
        let moved: Vec<u8> = std::iter::repeat_n(0, offset).chain(blocks).collect();
        for isa in isas() {
            let mut out = vec![f32::NAN; values];
            decode_row_with(isa, format, &moved[offset..], &mut out);
            // Equal as numbers: a zero's sign may differ where a multiplication is fused.
            prop_assert_eq!(&out, &expected, "{} {}", format.name(), isa.name());
        }
    }
}
