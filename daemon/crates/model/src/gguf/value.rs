//! Metadata values. Invariant: a value is only ever a view; arrays of any length cost nothing until they are walked.

use super::GgufError;
use super::cursor::Cursor;

/// Arrays in arrays deeper than this are refused. Real files use one level.
const DEPTH_MAX: u32 = 4;

/// GGUF's value types, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueKind {
    const ALL: [ValueKind; 13] = {
        use ValueKind::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
    };

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<ValueKind, GgufError> {
        let at = cursor.at() as u64;
        let kind = cursor.u32("a value's type")?;
        Self::ALL
            .get(kind as usize)
            .copied()
            .ok_or(GgufError::ValueKind { kind, at })
    }

    /// Bytes of a value; `None` for strings and arrays.
    fn size(self) -> Option<u64> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }

    /// Fewest bytes that a value takes.
    fn size_min(self) -> u64 {
        match self {
            Self::String => 8,
            Self::Array => 12,
            scalar => scalar.size().unwrap_or(1),
        }
    }
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

impl Value<'_> {
    /// What it holds, for messages.
    pub fn describe(&self) -> String {
        match self {
            Value::Unsigned(v) => format!("the integer {v}"),
            Value::Signed(v) => format!("the integer {v}"),
            Value::Float(v) => format!("the number {v}"),
            Value::Bool(v) => format!("the boolean {v}"),
            Value::String(_) => "a string".to_owned(),
            Value::Array(a) => format!("an array of {} {:?}", a.len, a.kind),
        }
    }
}

/// An array whose entries were walked once, so that they are known to lie in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: ValueKind,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of its entries.
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its entries, in order. Strings that are not UTF-8 are errors of their own, as `Err` entries.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, GgufError>> + use<'a> {
        let (kind, len) = (self.kind, self.len);
        let mut cursor = Cursor::new(self.bytes, 0);
        (0..len).map(move |_| read(&mut cursor, kind))
    }

    /// The bytes of its entries, when they are strings.
    pub fn byte_strings(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let len = self.len;
        let mut cursor = Cursor::new(self.bytes, 0);
        (self.kind == ValueKind::String).then(|| (0..len).map_while(move |_| cursor.string("a string").ok()))
    }
}

/// Passes over a value, checking everything but the UTF-8 of strings in arrays.
pub(super) fn skip(cursor: &mut Cursor<'_>, kind: ValueKind, depth: u32) -> Result<(), GgufError> {
    match kind {
        ValueKind::String if depth == 0 => {
            let at = cursor.at() as u64;
            let bytes = cursor.string("a string")?;
            std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what: "a string", at })?;
        }
        ValueKind::String => drop(cursor.string("a string")?),
        ValueKind::Array => skip_array(cursor, depth)?,
        ValueKind::Bool => drop(read(cursor, kind)?),
        scalar => drop(cursor.take(scalar.size().unwrap_or(0), "a value")?),
    }
    Ok(())
}

fn skip_array(cursor: &mut Cursor<'_>, depth: u32) -> Result<(), GgufError> {
    if depth >= DEPTH_MAX {
        return Err(GgufError::Depth {
            max: DEPTH_MAX,
            at: cursor.at() as u64,
        });
    }
    let (kind, len) = array_head(cursor)?;
    match kind.size() {
        Some(size) if kind != ValueKind::Bool => {
            cursor.take(size.saturating_mul(len), "an array")?;
        }
        _ => {
            for _ in 0..len {
                skip(cursor, kind, depth + 1)?;
            }
        }
    }
    Ok(())
}

fn array_head(cursor: &mut Cursor<'_>) -> Result<(ValueKind, u64), GgufError> {
    let kind = ValueKind::read(cursor)?;
    let len = cursor.count("array entries", kind.size_min())?;
    Ok((kind, len))
}

/// Reads a value that `skip` has passed over.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, kind: ValueKind) -> Result<Value<'a>, GgufError> {
    let at = cursor.at() as u64;
    match kind {
        ValueKind::String => {
            let bytes = cursor.string("a string")?;
            let text = std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what: "a string", at })?;
            Ok(Value::String(text))
        }
        ValueKind::Array => {
            let (kind, len) = array_head(cursor)?;
            let mut end = cursor.clone();
            for _ in 0..len {
                skip(&mut end, kind, 1)?;
            }
            let bytes = cursor.take((end.at() - cursor.at()) as u64, "an array")?;
            Ok(Value::Array(Array {
                kind,
                len: bytes.len().min(len as usize),
                bytes,
            }))
        }
        scalar => read_scalar(cursor.take(scalar.size().unwrap_or(0), "a value")?, kind, at),
    }
}

fn read_scalar<'a>(bytes: &[u8], kind: ValueKind, at: u64) -> Result<Value<'a>, GgufError> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    Ok(match kind {
        ValueKind::I8 => Value::Signed(i64::from(unsigned as u8 as i8)),
        ValueKind::I16 => Value::Signed(i64::from(unsigned as u16 as i16)),
        ValueKind::I32 => Value::Signed(i64::from(unsigned as u32 as i32)),
        ValueKind::I64 => Value::Signed(unsigned as i64),
        ValueKind::F32 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
        ValueKind::F64 => Value::Float(f64::from_bits(unsigned)),
        ValueKind::Bool if unsigned > 1 => return Err(GgufError::Bool { value: wide[0], at }),
        ValueKind::Bool => Value::Bool(unsigned == 1),
        _ => Value::Unsigned(unsigned),
    })
}
