//! Reads bytes as a file of packed weights. Invariant: it answers with a table of tensors inside the file, apart from each
//! other, or with an error, never with a panic or a large allocation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = hyprstream_model::parse_packed(bytes) else {
        return;
    };
    assert_eq!(table.data_start + table.data_len, bytes.len());
    let mut end = 0;
    for tensor in &table.tensors {
        assert!(tensor.offset >= end && tensor.offset.is_multiple_of(64));
        end = tensor.offset + tensor.len;
        assert!(end <= table.data_len);
    }
});
