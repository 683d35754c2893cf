//! Packed weights against the rows of the file.
//!
//! Invariant under test: an unpacked row is `decode_row` of the file's row, exactly; bytes do not depend on the pool.

#![allow(clippy::unwrap_used)]

mod inputs;

use hyprstream_kernels::{Format, MatrixRef, PackedRef, Pool, pack, packed_bytes, reference, unpack_row};
use inputs::{Aligned, PACKED, Random};
use proptest::prelude::*;

#[test]
fn plain_formats_and_bad_shapes_have_no_packed_form() {
    for format in [Format::F32, Format::F16, Format::BF16] {
        assert_eq!(packed_bytes(format, 16, 256), None);
    }
    assert_eq!(packed_bytes(Format::Q4_K, 16, 128), None);
    assert_eq!(packed_bytes(Format::Q8_0, 16, 33), None);
    assert_eq!(packed_bytes(Format::Q8_0, usize::MAX, 32), None);
    assert_eq!(packed_bytes(Format::Q8_0, 16, usize::MAX / 32 * 32), None);
    assert_eq!(packed_bytes(Format::Q8_0, 0, 32), Some(0));
}

#[test]
fn packed_weights_take_about_the_bytes_of_the_file() {
    for (format, bits) in [
        (Format::Q8_0, 8.5),
        (Format::Q4_K, 4.625),
        (Format::Q6_K, 6.5625),
        (Format::Q2_K, 3.125),
        (Format::MXFP4, 4.25),
    ] {
        let bytes = packed_bytes(format, 64, 2048).unwrap();
        assert_eq!(bytes as f64 * 8.0 / (64.0 * 2048.0), bits, "{}", format.name());
    }
}

#[test]
fn a_packed_matrix_has_its_length_and_alignment() {
    let len = packed_bytes(Format::Q4_0, 20, 64).unwrap();
    let bytes = Aligned::new(len + 64);
    let bytes = bytes.as_slice();
    assert!(PackedRef::new(Format::Q4_0, 20, 64, &bytes[..len]).is_some());
    assert!(PackedRef::new(Format::Q4_0, 20, 64, &bytes[32..len + 32]).is_none());
    assert!(PackedRef::new(Format::Q4_0, 20, 64, &bytes[..len - 1]).is_none());
    assert!(PackedRef::new(Format::Q4_0, 33, 64, &bytes[..len]).is_none());
}

proptest! {
    #[test]
    fn unpacked_rows_are_those_of_the_file(seed: u64, pick in 0..PACKED.len(), rows in 0_usize..40, blocks in 0_usize..5) {
        let format = PACKED[pick];
        let cols = blocks * format.block_len();
        // Any bits at all, scales that are no numbers included.
        let file = Random(seed).bytes(rows * format.row_bytes(cols).unwrap());
        let w = MatrixRef::new(format, rows, cols, &file).unwrap();
        let packed = [1, 3].map(|threads| {
            let mut out = Aligned::new(packed_bytes(format, rows, cols).unwrap());
            out.as_mut_slice().fill(0xa5);
            pack(&Pool::new(threads).unwrap(), w, out.as_mut_slice());
            out
        });
        prop_assert_eq!(packed[0].as_slice(), packed[1].as_slice());
        let packed = PackedRef::new(format, rows, cols, packed[0].as_slice()).unwrap();
        let (mut out, mut expected) = (vec![0.5; cols], vec![0.25; cols]);
        for row in 0..rows {
            unpack_row(packed, row, &mut out);
            reference::decode_row(format, w.row(row), &mut expected);
            for (out, expected) in out.iter().zip(&expected) {
                // Equal as numbers, or neither is one: infinite scales give what f16 gives.
                prop_assert!(out == expected || out.is_nan() && expected.is_nan(), "{} {out} {expected}", format.name());
            }
        }
    }
}
