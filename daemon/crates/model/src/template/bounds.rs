//! What one rendering may cost. Invariant: text and lists that a template makes, and the work of walking them, come out of
//! one budget that grows with the conversation alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Bytes that any template may make.
const WORK_BYTES_MIN: usize = 64 << 20;
/// Bytes that a template may make for each byte of the conversation: templates that collect text in a variable copy it once
/// a message.
const WORK_PER_BYTE: usize = 64;
/// Most bytes for one rendering, which is also the most memory that it can hold.
const WORK_BYTES_MAX: usize = 1 << 30;
/// What an entry of a list or map costs.
const ENTRY_BYTES: usize = 32;
/// Deepest nesting of lists and maps; requests are read with a limit of 128.
const DEPTH_MAX: usize = 160;
/// Most instructions.
const FUEL_MAX: u64 = 5_000_000;
/// Fewest instructions.
const FUEL_MIN: u64 = 50_000;
/// Most plain text that instructions may emit, in bytes.
const RAW_BYTES_MAX: u64 = 1 << 30;

/// The budget of one rendering, and how it ended.
#[derive(Debug)]
pub(super) struct Work {
    left: AtomicUsize,
    spent: AtomicBool,
    raised: Mutex<Option<String>>,
}

impl Work {
    /// For a conversation of `input` bytes.
    pub(super) fn new(input: usize) -> Work {
        let left = input
            .saturating_mul(WORK_PER_BYTE)
            .clamp(WORK_BYTES_MIN, WORK_BYTES_MAX);
        Work {
            left: AtomicUsize::new(left),
            spent: AtomicBool::new(false),
            raised: Mutex::new(None),
        }
    }

    /// Takes `bytes` from the budget, before they are made.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Error> {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        taken.map(drop).map_err(|_| self.stop())
    }

    fn stop(&self) -> Error {
        self.spent.store(true, Ordering::Relaxed);
        Error::new(ErrorKind::InvalidOperation, "out of budget")
    }

    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Keeps the text of `raise_exception`.
    pub(super) fn raise(&self, message: String) {
        if let Ok(mut raised) = self.raised.lock() {
            *raised = Some(message);
        }
    }

    pub(super) fn raised(&self) -> Option<String> {
        self.raised.lock().ok()?.take()
    }

    /// Walks a list or map and pays for it; stops at nesting that would overflow the stack when it is dropped.
    pub(super) fn walk(&self, value: &Value) -> Result<(), Error> {
        self.walk_at(value, 0)
    }

    /// The same for what becomes part of another value. Namespaces may not: they can change, so they could make rings
    /// and chains that no walk has seen.
    pub(super) fn walk_part(&self, value: &Value) -> Result<(), Error> {
        self.walk_at(value, 1)
    }

    fn walk_at(&self, value: &Value, depth: usize) -> Result<(), Error> {
        let kind = value.kind();
        if !matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
            return Ok(());
        }
        if depth >= DEPTH_MAX || (depth > 0 && is_namespace(value)) {
            return Err(self.stop());
        }
        for item in value.try_iter()? {
            self.charge(ENTRY_BYTES)?;
            if kind == ValueKind::Map {
                self.walk_at(&value.get_item(&item)?, depth + 1)?;
            } else {
                self.walk_at(&item, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Pays for a value that a filter made.
    pub(super) fn charge_value(&self, value: &Value) -> Result<(), Error> {
        let entries = || value.len().unwrap_or(0).saturating_mul(ENTRY_BYTES);
        self.charge(value.as_str().map_or_else(entries, str::len))
    }
}

fn is_namespace(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// Most instructions for a template whose longest plain text has `raw_max` bytes.
pub(super) fn fuel(raw_max: usize) -> u64 {
    let by_raw = RAW_BYTES_MAX.checked_div(raw_max as u64).unwrap_or(FUEL_MAX);
    by_raw.clamp(
        FUEL_MIN.min(RAW_BYTES_MAX / super::SOURCE_BYTES_MAX as u64),
        FUEL_MAX,
    )
}

/// Bytes of text in a value that came from a request, which is a tree.
pub(super) fn size(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Seq => value
            .try_iter()
            .map_or(0, |items| items.map(|item| size(&item) + ENTRY_BYTES).sum()),
        ValueKind::Map => value.try_iter().map_or(0, |keys| {
            keys.map(|key| size(&key) + value.get_item(&key).map_or(0, |v| size(&v)) + ENTRY_BYTES)
                .sum()
        }),
        _ => 0,
    }
}
