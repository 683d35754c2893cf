//! Checksums over a lot of bytes. Invariant: bytes are read once, and threads of the pool are held for a few milliseconds at
//! a time, so that a running answer is not held up by a load.

use super::table::{PIECE, PackedError, PackedTable};
use crate::map::Map;
use hyprstream_kernels::Pool;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Pieces in one run of the pool.
const PIECES_A_RUN: usize = 8;
/// Bytes read from a file in one go.
const READ: usize = 1 << 20;

/// BLAKE3 of every piece of the data from `start` on.
pub(super) fn hashes(pool: &Pool, map: &Map, start: usize, progress: &mut dyn FnMut(f32)) -> Vec<[u8; 32]> {
    let data = map.bytes().get(start..).unwrap_or_default();
    let pieces: Vec<&[u8]> = data.chunks(PIECE).collect();
    let hashes = Mutex::new(vec![[0; 32]; pieces.len()]);
    for (run, group) in pieces.chunks(PIECES_A_RUN).enumerate() {
        let first = run * PIECES_A_RUN;
        pool.run(group.len(), &|i| {
            let Some(piece) = group.get(i) else { return };
            let at = start + (first + i) * PIECE;
            map.populate(at..at + piece.len());
            let hash = blake3::hash(piece);
            let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = hashes.get_mut(first + i) {
                *slot = *hash.as_bytes();
            }
        });
        progress((first + group.len()) as f32 / pieces.len() as f32);
    }
    hashes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Compares the data with their checksums.
pub(super) fn verify(
    pool: &Pool,
    map: &Map,
    table: &PackedTable,
    progress: &mut dyn FnMut(f32),
) -> Result<(), PackedError> {
    let found = hashes(pool, map, table.data_start, progress);
    match found.iter().zip(&table.hashes).position(|(a, b)| a != b) {
        Some(piece) => Err(PackedError::Data {
            at: (table.data_start + piece * PIECE) as u64,
        }),
        None if found.len() != table.hashes.len() || map.damaged() => Err(PackedError::Head),
        None => Ok(()),
    }
}

/// BLAKE3 of a whole file, by plain reads, which leave its pages out of this process's memory.
pub(super) fn digest(map: &Map) -> io::Result<[u8; 32]> {
    let file = map.file().ok_or(io::ErrorKind::NotFound)?;
    let mut hash = blake3::Hasher::new();
    let mut chunk = vec![0; READ];
    let mut at = 0;
    loop {
        let len = match file.read_at(&mut chunk, at) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(chunk.get(..len).unwrap_or_default());
        at += len as u64;
    }
    Ok(*hash.finalize().as_bytes())
}
