//! The tile instructions, one macro each; a tile is named by its register: `tile_zero!("tmm0")`.
//!
//! Invariant: each names the register that it writes as clobbered. The compiler itself never uses tile registers (no
//! function enables the feature), so they keep their values from one macro to the next, as the configuration does.
//!
//! # Safety
//! All need a living `Tiles` on this thread whose shapes fit: `tile_load!` and `tile_store!` touch the tile's rows at
//! `from` or `to`, `stride` bytes apart.

macro_rules! tile_zero {
    ($tile:tt) => {
        ::std::arch::asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem, preserves_flags))
    };
}

/// `tile_load!("tmm0", from: *const _, stride)`.
macro_rules! tile_load {
    ($tile:tt, $from:expr, $stride:expr) => {
        ::std::arch::asm!(
            concat!("tileloadd ", $tile, ", [{from} + {stride} * 1]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            out($tile) _,
            options(nostack, readonly, preserves_flags),
        )
    };
}

/// `tile_store!("tmm0", to: *mut _, stride)`.
macro_rules! tile_store {
    ($tile:tt, $to:expr, $stride:expr) => {
        ::std::arch::asm!(
            concat!("tilestored [{to} + {stride} * 1], ", $tile),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

macro_rules! product {
    ($($(#[$doc:meta])* $name:ident $instruction:literal)*) => { $(
        $(#[$doc])*
        #[allow(unused_macros)]
        macro_rules! $name {
            ($c:tt, $a:tt, $b:tt) => {
                ::std::arch::asm!(
                    concat!($instruction, " ", $c, ", ", $a, ", ", $b),
                    out($c) _,
                    options(nostack, nomem, preserves_flags),
                )
            };
        }
    )* };
}

product! {
    /// `c += a b` on bf16 pairs, into f32.
    tile_dpbf16ps "tdpbf16ps"
    /// `c += a b` on fours of bytes, into i32, `a` signed and `b` unsigned.
    tile_dpbsud "tdpbsud"
    /// As `tile_dpbsud`, both signed.
    tile_dpbssd "tdpbssd"
}

#[allow(clippy::single_component_path_imports, unused_imports)] // This is how macros get a path.
pub(crate) use {tile_dpbf16ps, tile_dpbssd, tile_dpbsud, tile_load, tile_store, tile_zero};
