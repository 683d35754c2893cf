//! The keys and values of a GGUF file. Invariant: it owns its bytes, so that a file which changes later changes nothing
//! here; large arrays stay as they are in the file.

use super::value::{self, Array, Value, ValueKind};
use super::{GgufError, cursor::Cursor};
use std::ops::Range;

/// More keys than any real file has (about 50).
const KEYS_MAX: u64 = 65_536;
/// GGUF's own limit for keys.
const KEY_BYTES_MAX: u64 = 65_535;
/// A key's length, a value's type and a one-byte value.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;

struct Entry {
    key: Range<usize>,
    kind: ValueKind,
    at: usize,
}

/// Keys and values, looked up by key.
pub struct Metadata {
    bytes: Box<[u8]>,
    /// Sorted by key.
    entries: Vec<Entry>,
}

/// Checks the count of keys, before they are read.
pub(super) fn read_count(cursor: &mut Cursor<'_>) -> Result<u64, GgufError> {
    let count = cursor.count("metadata keys", ENTRY_BYTES_MIN)?;
    if count > KEYS_MAX {
        return Err(GgufError::TooMany {
            what: "metadata keys",
            count,
            max: KEYS_MAX,
        });
    }
    Ok(count)
}

fn read_entries(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>, GgufError> {
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let key_len = cursor.name("metadata key", KEY_BYTES_MAX)?.len();
        let key = cursor.at() - key_len..cursor.at();
        let kind = ValueKind::read(cursor)?;
        let at = cursor.at();
        value::skip(cursor, kind, 0)?;
        entries.push(Entry { key, kind, at });
    }
    Ok(entries)
}

impl Metadata {
    /// Reads `count` entries from `start` on; the second value is where they end.
    ///
    /// The bytes may be a map of a file that another process writes to, so they are copied before what is found in them
    /// is believed.
    pub(super) fn read(bytes: &[u8], start: usize, count: u64) -> Result<(Metadata, usize), GgufError> {
        let mut cursor = Cursor::new(bytes, start);
        read_entries(&mut cursor, count)?;
        let end = cursor.at();
        let bytes: Box<[u8]> = bytes[..end].into();
        let mut entries = read_entries(&mut Cursor::new(&bytes, start), count)?;
        entries.sort_unstable_by(|a, b| bytes[a.key.clone()].cmp(&bytes[b.key.clone()]));
        if let Some(pair) = entries
            .windows(2)
            .find(|p| bytes[p[0].key.clone()] == bytes[p[1].key.clone()])
        {
            let key = String::from_utf8_lossy(&bytes[pair[0].key.clone()]).into_owned();
            return Err(GgufError::KeyTwice { key });
        }
        Ok((Metadata { bytes, entries }, end))
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        let found = self
            .entries
            .binary_search_by(|e| self.bytes[e.key.clone()].cmp(key.as_bytes()));
        self.entries.get(found.ok()?)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let entry = self.entry(key)?;
        value::read(&mut Cursor::new(&self.bytes, entry.at), entry.kind).ok()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter_map(|e| std::str::from_utf8(&self.bytes[e.key.clone()]).ok())
    }

    fn wrong(key: &str, found: &Value<'_>, wanted: &'static str) -> GgufError {
        GgufError::WrongKind {
            key: key.to_owned(),
            found: found.describe(),
            wanted,
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        convert: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        convert(&value)
            .map(Some)
            .ok_or_else(|| Self::wrong(key, &value, wanted))
    }

    /// A string; `None` if the key is absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |v| {
            if let Value::String(s) = v { Some(*s) } else { None }
        })
    }

    /// An integer of any width that is not negative; `None` if the key is absent.
    pub fn uint(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer of at least 0", as_uint)
    }

    /// An integer that fits 32 bits; `None` if the key is absent.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an integer from 0 to 4294967295", |v| {
            u32::try_from(as_uint(v)?).ok()
        })
    }

    /// An integer, or an array of integers that are all equal, as some converters write one value per layer.
    pub fn uint_or_equal(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(
            key,
            "an integer, or equal integers for every layer",
            |v| match v {
                Value::Array(array) => {
                    let mut values = array.iter().map(|v| as_uint(&v.ok()?));
                    let first = values.next()??;
                    values.all(|v| v == Some(first)).then_some(first)
                }
                scalar => as_uint(scalar),
            },
        )
    }

    /// A number; `None` if the key is absent.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", as_f32)
    }

    /// A boolean; `None` if the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |v| {
            if let Value::Bool(b) = v { Some(*b) } else { None }
        })
    }

    /// An array; `None` if the key is absent.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, GgufError> {
        self.typed(key, "an array", |v| {
            if let Value::Array(a) = v { Some(*a) } else { None }
        })
    }

    /// An array of strings, borrowed; `None` if the key is absent.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        let Some(array) = self.array(key)? else {
            return Ok(None);
        };
        let Some(entries) = array.byte_strings() else {
            return Err(Self::wrong(key, &Value::Array(array), "an array of strings"));
        };
        let strings = entries.enumerate().map(|(index, bytes)| {
            std::str::from_utf8(bytes).map_err(|_| GgufError::EntryUtf8 {
                key: key.to_owned(),
                index,
            })
        });
        strings.collect::<Result<_, _>>().map(Some)
    }

    /// An array of integers; `None` if the key is absent.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(key, "an array of integers", |v| {
            let Value::Array(array) = v else { return None };
            let ints = array.iter().map(|v| match v.ok()? {
                Value::Unsigned(v) => i64::try_from(v).ok(),
                Value::Signed(v) => Some(v),
                _ => None,
            });
            ints.collect()
        })
    }

    /// An array of numbers; `None` if the key is absent.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of numbers", |v| {
            let Value::Array(array) = v else { return None };
            array.iter().map(|v| as_f32(&v.ok()?)).collect()
        })
    }
}

fn as_uint(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Unsigned(v) => Some(*v),
        Value::Signed(v) => u64::try_from(*v).ok(),
        _ => None,
    }
}

fn as_f32(value: &Value<'_>) -> Option<f32> {
    match value {
        Value::Float(v) => Some(*v as f32),
        Value::Unsigned(v) => Some(*v as f32),
        Value::Signed(v) => Some(*v as f32),
        _ => None,
    }
}
