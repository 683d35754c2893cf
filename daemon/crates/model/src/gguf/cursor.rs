//! Reads little-endian fields one after the other. Invariant: it never passes the end, and never allocates.

use super::GgufError;

/// A place in the header.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at: at.min(bytes.len()),
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that follow.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len))
            .and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            let file_len = self.bytes.len() as u64;
            return Err(GgufError::Truncated {
                what,
                at: self.at as u64,
                needs: len,
                file_len,
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of entries that take at least `bytes_min` bytes each, checked against what is left of the file.
    pub(super) fn count(&mut self, what: &'static str, bytes_min: u64) -> Result<u64, GgufError> {
        let at = self.at as u64;
        let count = self.u64(what)?;
        let left = self.left() as u64;
        if count.checked_mul(bytes_min).is_none_or(|needs| needs > left) {
            return Err(GgufError::Count {
                what,
                count,
                at,
                left,
            });
        }
        Ok(count)
    }

    /// Length-prefixed bytes.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a [u8], GgufError> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    /// Length-prefixed UTF-8 of a bounded length.
    pub(super) fn name(&mut self, what: &'static str, max: u64) -> Result<&'a str, GgufError> {
        let at = self.at as u64;
        let len = self.u64(what)?;
        if len > max {
            return Err(GgufError::TooLong { what, len, at, max });
        }
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what, at })
    }
}
