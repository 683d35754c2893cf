//! Asking memory for the next block while one is worked on.
//!
//! Invariant: it names addresses alone and reads nothing, so that it changes no result.

use super::value::{Rows, Value};
use crate::simd::Simd;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Streams that are asked for in turn: a core has more reads under way on four streams than on one.
const STREAMS: usize = 4;

/// What of a block is still to be asked for: its keys and its values, each from the beginning and from the middle on.
pub(super) struct Ahead {
    streams: [*const u8; STREAMS],
    /// Bytes of a stream that were asked for, and all.
    done: usize,
    len: usize,
}

impl Ahead {
    /// A block's keys and values. Scales, which are few, are asked for at once.
    #[inline(always)]
    pub(super) fn new<S: Simd, T: Value>(s: S, [k, v]: [Rows<'_, T>; 2]) -> Ahead {
        for scales in [k.scales, v.scales] {
            for scales in scales.chunks(LINE / size_of::<f32>()) {
                s.prefetch(scales.as_ptr().cast());
            }
        }
        let len = size_of_val(k.values) / 2;
        let [k, v] = [k, v].map(|rows| rows.values.as_ptr().cast::<u8>());
        Ahead {
            streams: [k, k.wrapping_add(len), v, v.wrapping_add(len)],
            done: 0,
            len,
        }
    }

    /// Asks for a line of each stream, until all were asked for.
    #[inline(always)]
    pub(super) fn ask<S: Simd>(&mut self, s: S) {
        if self.done < self.len {
            for stream in self.streams {
                s.prefetch(stream.wrapping_add(self.done));
            }
            self.done += LINE;
        }
    }

    /// Asks for the rest.
    #[inline(always)]
    pub(super) fn ask_all<S: Simd>(&mut self, s: S) {
        while self.done < self.len {
            self.ask(s);
        }
    }
}
