//! Reads what C passes. Invariant: NULL, a misplaced pointer and what is not UTF-8 become errors; all else that a pointer promises is
//! the caller's to keep, as the header says.
#![allow(unsafe_code)]

use crate::failure::Failure;
use hyprstream_protocol::{Message, Role, Sampling};
use std::ffi::{CStr, c_char};

/// More turns than any talk has.
const MESSAGES_MAX: usize = 1 << 20;

/// One turn of a talk.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(non_camel_case_types)] // The header has this name.
pub struct hypr_message {
    /// Who speaks: "system", "user", "assistant" or "tool".
    pub role: *const c_char,
    /// What is said.
    pub content: *const c_char,
}

/// A text that may be left out.
///
/// # Safety
/// `text` is NULL or points to a string that ends with NUL and does not change while `'a` lasts.
pub unsafe fn optional<'a>(name: &'static str, text: *const c_char) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so it is a string that ends with NUL, by this function's own condition.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(Some)
        .map_err(|error| Failure::argument(name, format!("is not UTF-8 at byte {}", error.valid_up_to())))
}

/// A text that must be there.
///
/// # Safety
/// As [`optional`].
pub unsafe fn required<'a>(name: &'static str, text: *const c_char) -> Result<&'a str, Failure> {
    // SAFETY: the condition is the same.
    unsafe { optional(name, text) }?.ok_or_else(|| Failure::argument(name, "is NULL"))
}

/// How to answer: NULL, or a JSON object.
///
/// # Safety
/// As [`optional`].
pub unsafe fn options(text: *const c_char) -> Result<Sampling, Failure> {
    // SAFETY: the condition is the same.
    match unsafe { optional("options", text) }? {
        None => Ok(Sampling::default()),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Failure::argument("options", format!("cannot be read: {error}"))),
    }
}

/// The turns of a talk.
///
/// # Safety
/// `messages` is NULL or points to `count` messages, the strings of which are as [`optional`] wants them.
pub unsafe fn talk(messages: *const hypr_message, count: usize) -> Result<Vec<Message>, Failure> {
    if messages.is_null() || !messages.is_aligned() {
        return Err(Failure::argument("messages", "is NULL or misplaced"));
    }
    if count == 0 || count > MESSAGES_MAX {
        return Err(Failure::argument(
            "count",
            format!("is not in 1 to {MESSAGES_MAX}"),
        ));
    }
    // SAFETY: not NULL, aligned, of `count` messages by this function's condition, and the size cannot overflow: checked above.
    let messages = unsafe { std::slice::from_raw_parts(messages, count) };
    let turn = |message: &hypr_message| {
        // SAFETY: by this function's condition the strings are as `optional` wants them.
        let (role, content) = unsafe {
            (
                required("role", message.role)?,
                required("content", message.content)?,
            )
        };
        let role: Role = serde_json::from_value(role.into())
            .map_err(|_| Failure::argument("role", "is none of system, user, assistant, tool"))?;
        Ok(Message::new(role, content))
    };
    messages.iter().map(turn).collect()
}
