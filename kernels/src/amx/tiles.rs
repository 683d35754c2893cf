//! The tile configuration of a thread.
//!
//! Invariant: while a `Tiles` lives, its thread's tiles have its shapes; when it goes, they are released, so that
//! other code on the thread and the system's context switches find none.

use std::arch::asm;
use std::marker::PhantomData;

use super::Amx;

/// Rows and bytes of a row of the tiles, as LDTILECFG wants them (palette 1).
#[repr(C, align(64))]
pub(crate) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// The tiles of `multiply_block`, each 16 rows x 64 bytes.
    pub(crate) const FULL: Shapes = Shapes::new([(16, 64); 4]);

    /// `(rows, bytes of a row)` of each tile, from the first on; the others cannot be used.
    ///
    /// # Panics
    /// If there are more than eight, or if a tile has no rows or more than 16, or rows of no bytes, more than 64, or parts
    /// of 4.
    pub(crate) const fn new<const N: usize>(shapes: [(usize, usize); N]) -> Shapes {
        let mut out = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        assert!(N <= 8);
        while tile < N {
            let (rows, bytes) = shapes[tile];
            assert!(rows >= 1 && rows <= 16 && bytes >= 4 && bytes <= 64 && bytes.is_multiple_of(4));
            out.rows[tile] = rows as u8;
            out.row_bytes[tile] = bytes as u16;
            tile += 1;
        }
        out
    }
}

/// The thread's tiles, configured. Costs some 90 ns to make and to drop together, so that each piece of a run makes its own.
pub(crate) struct Tiles {
    /// It belongs to its thread.
    thread: PhantomData<*mut ()>,
}

impl Tiles {
    /// Configures this thread's tiles, all of them zero. At most one `Tiles` lives on a thread: a second one would
    /// take the shapes from the first.
    pub(crate) fn new(_: Amx, shapes: &Shapes) -> Tiles {
        // SAFETY: the token proves the instruction; a `Shapes` is 64 bytes that are valid as a configuration. What the
        // tile registers held belonged to nobody.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                shapes = in(reg) shapes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        Tiles { thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the value proves the instruction. What the tile registers held belonged to this value.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags),
            );
        }
    }
}
