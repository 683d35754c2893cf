//! Dot products in portable code.
//!
//! Invariant: as in the parent.

use super::super::{Scalar, Simd};
use super::{I32, Int8, Int8Kernel};

const LANES: usize = <Scalar as Simd>::LANES;

impl Int8 for Scalar {
    const CENTRED: bool = false;
    type Floats = Scalar;
    type Codes = [u32; LANES];

    #[inline(always)]
    fn floats(self) -> Scalar {
        self
    }

    fn run<K: Int8Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    #[inline(always)]
    unsafe fn codes_at(self, from: *const u8) -> Self::Codes {
        // SAFETY: the caller says that so many bytes are readable.
        let mut codes = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        for code in &mut codes {
            *code = u32::from_le(*code);
        }
        codes
    }

    #[inline(always)]
    fn splat(self, codes: u32) -> Self::Codes {
        [codes; LANES]
    }

    #[inline(always)]
    fn and(self, mut a: Self::Codes, b: Self::Codes) -> Self::Codes {
        for (a, b) in a.iter_mut().zip(b) {
            *a &= b;
        }
        a
    }

    #[inline(always)]
    fn or(self, mut a: Self::Codes, b: Self::Codes) -> Self::Codes {
        for (a, b) in a.iter_mut().zip(b) {
            *a |= b;
        }
        a
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, mut v: Self::Codes) -> Self::Codes {
        for v in &mut v {
            *v >>= BITS;
        }
        v
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, mut v: Self::Codes) -> Self::Codes {
        for v in &mut v {
            *v <<= BITS;
        }
        v
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], mut index: Self::Codes) -> Self::Codes {
        for index in &mut index {
            let mut bytes = index.to_le_bytes();
            for byte in &mut bytes {
                *byte = table[usize::from(*byte & 15)];
            }
            *index = u32::from_le_bytes(bytes);
        }
        index
    }

    #[inline(always)]
    unsafe fn dots<const BITS: u32, const N: usize, const R: usize>(
        self,
        mut sums: [I32<Self>; R],
        codes: &[Self::Codes; N],
        x: [*const i8; R],
    ) -> [I32<Self>; R] {
        for (sum, x) in sums.iter_mut().zip(x) {
            for (i, codes) in codes.iter().enumerate() {
                // SAFETY: the caller says that `4 * N` values are readable.
                let x = unsafe { x.add(4 * i).cast::<[i8; 4]>().read_unaligned() };
                dot(sum, codes, x);
            }
        }
        sums
    }

    #[inline(always)]
    fn mul_i32(self, mut a: I32<Self>, b: I32<Self>) -> I32<Self> {
        for (a, b) in a.iter_mut().zip(b) {
            *a = a.wrapping_mul(b);
        }
        a
    }

    #[inline(always)]
    fn add_words(self, mut sum: I32<Self>, a: I32<Self>, b: I32<Self>) -> I32<Self> {
        for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            // The words with their signs; products of words and sums of two of them fit.
            let low = i32::from(a as i16) * i32::from(b as i16);
            *sum = sum.wrapping_add(low).wrapping_add((a >> 16) * (b >> 16));
        }
        sum
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    unsafe fn u8s_at(self, from: *const u8) -> I32<Self> {
        // SAFETY: the caller says that so many bytes are readable.
        self.u8s(&unsafe { from.cast::<[u8; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn i8s_at(self, from: *const u8) -> I32<Self> {
        // SAFETY: as above.
        self.i8s(&unsafe { from.cast::<[u8; LANES]>().read_unaligned() })
    }
}

/// Not inlined: spread over all kernels it would take long to compile and be no faster.
#[inline(never)]
fn dot(sum: &mut [i32; LANES], codes: &[u32; LANES], x: [i8; 4]) {
    for (sum, codes) in sum.iter_mut().zip(codes) {
        for (code, x) in codes.to_le_bytes().into_iter().zip(x) {
            *sum += i32::from(code) * i32::from(x);
        }
    }
}
