//! Damaged headers reserve no memory that the file's length does not justify. Invariant: the only test in this program, so
//! that what the process reserves is its doing.

#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Well above the file of 10 kB; one believed count would pass it by far.
const GROWTH_KIB_MAX: u64 = 8 << 10;

/// The most address space that this process ever had, reserved or used.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn open(bytes: &[u8]) {
    let _ = hyprstream_model::parse(bytes.to_vec());
}

#[test]
fn no_field_of_a_header_reserves_memory() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/seeds/gguf/qwen3.gguf");
    let seed = std::fs::read(seed).unwrap();
    open(&seed);
    let before = peak_kib();
    // Metadata and the list of tensors end well before 4096.
    for at in 0..4096 {
        for value in [u64::MAX, 1 << 62, 1 << 40, 1 << 31, 1 << 24] {
            let mut damaged = seed.clone();
            damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            open(&damaged);
        }
        for bit in 0..8 {
            let mut damaged = seed.clone();
            damaged[at] ^= 1 << bit;
            open(&damaged);
        }
    }
    let growth = peak_kib() - before;
    assert!(
        growth < GROWTH_KIB_MAX,
        "{growth} KiB more than for the whole file"
    );
}
