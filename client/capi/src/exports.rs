//! The functions of hyprstream.h. Invariant: nothing is decided here; each takes its arguments from C, and hands back a code.
#![allow(unsafe_code)]
#![allow(non_camel_case_types)] // The header has these names.
#![allow(clippy::missing_safety_doc)] // The header opens with what a caller has to keep to, once for all functions.

use crate::arguments::{self, hypr_message};
use crate::client::{Place, hypr_client};
use crate::code::hypr_code;
use crate::failure::Failure;
use hyprstream_protocol::{ChatRequest, GenerateRequest, Priority, Prompt};
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

/// Takes a piece of the answer: `length` bytes of whole UTF-8 characters, and a NUL behind them. They are gone when it returns.
/// 0 goes on, anything else cancels the call. It must return: neither longjmp() nor an exception may leave it.
pub type hypr_on_text =
    Option<unsafe extern "C" fn(text: *const c_char, length: usize, user: *mut c_void) -> c_int>;

/// No panic goes on into C, where it would be undefined.
fn guard<T>(fallback: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(fallback)
}

/// The client, kept alive for one call, so that hypr_free() may come meanwhile.
///
/// # Safety
/// `client` is NULL or came from [`hypr_new`] and was not freed before.
unsafe fn borrow(client: *const hypr_client) -> Option<Arc<hypr_client>> {
    if client.is_null() {
        return None;
    }
    // SAFETY: it came from `Arc::into_raw` in `hypr_new`, and the count that stands for the caller's pointer is still there.
    unsafe {
        Arc::increment_strong_count(client);
        Some(Arc::from_raw(client))
    }
}

/// A call on a client: NULL is an error like others, but has no place to be told.
///
/// # Safety
/// As [`borrow`].
unsafe fn perform(
    client: *const hypr_client,
    work: impl FnOnce(&crate::client::Turn<'_>) -> Result<(), Failure>,
) -> hypr_code {
    guard(hypr_code::HYPR_FAULT, || {
        // SAFETY: the condition is the same.
        match unsafe { borrow(client) } {
            Some(client) => client.perform(work),
            None => hypr_code::HYPR_BAD_ARGUMENT,
        }
    })
}

/// Hands pieces of text to C.
fn deliver(on_text: hypr_on_text, user: *mut c_void) -> Result<impl FnMut(&str) -> bool, Failure> {
    let on_text = on_text.ok_or_else(|| Failure::argument("on_text", "is NULL"))?;
    let mut piece = Vec::new();
    Ok(move |text: &str| {
        piece.clear();
        piece.extend_from_slice(text.as_bytes());
        piece.push(0);
        // SAFETY: the text outlives the call and ends with NUL; `on_text` takes these arguments, as whoever passed it promised.
        unsafe { on_text(piece.as_ptr().cast(), text.len(), user) == 0 }
    })
}

/// The library's version, "0.1.0" say.
#[unsafe(no_mangle)]
pub extern "C" fn hypr_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of a code, "model_not_found" say; "unknown" for a number that is no code.
#[unsafe(no_mangle)]
pub extern "C" fn hypr_code_name(code: c_int) -> *const c_char {
    let known = hypr_code::ALL.iter().find(|known| **known as c_int == code);
    known.map_or(c"unknown", |known| known.name()).as_ptr()
}

/// A new client, which is connected to nothing; NULL where the library fails. Free it with hypr_free().
#[unsafe(no_mangle)]
pub extern "C" fn hypr_new() -> *mut hypr_client {
    guard(std::ptr::null_mut(), || {
        Arc::into_raw(Arc::<hypr_client>::default()).cast_mut()
    })
}

/// Frees a client; NULL is nothing to free. A call under way in another thread, or whose callback does this, is cancelled, and
/// returns. No call may begin from here on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_free(client: *mut hypr_client) {
    if client.is_null() {
        return;
    }
    guard((), || {
        // SAFETY: it came from `Arc::into_raw` in `hypr_new`; this takes back the count that stands for the caller's pointer.
        let client = unsafe { Arc::from_raw(client.cast_const()) };
        client.cancel();
    });
}

/// Looks for the daemon and asks whether it is well. `socket` is a path; NULL stands for $HYPRSTREAM_SOCKET, else the system's
/// daemon, else the user's own. A daemon that is not running is not started, unless systemd holds its socket.
/// Each later call opens a connection of its own, so a daemon that restarts needs no new hypr_connect().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_connect(client: *mut hypr_client, socket: *const c_char) -> hypr_code {
    // SAFETY: both are as they are here.
    unsafe {
        perform(client, |turn| {
            let place = match arguments::optional("socket", socket)? {
                Some("") => return Err(Failure::argument("socket", "is empty")),
                Some(path) => Place::Named(PathBuf::from(path)),
                None => Place::Found,
            };
            turn.connect(place)
        })
    }
}

/// Continues a text. `model` is NULL for the default one. `options` is NULL or a JSON object: the field `sampling` of the native
/// routes in hyprstreamd(8), as {"max_tokens": 100, "temperature": 0}. Returns when the answer is complete or has failed; the
/// callback runs in this thread meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_generate(
    client: *mut hypr_client,
    model: *const c_char,
    prompt: *const c_char,
    options: *const c_char,
    on_text: hypr_on_text,
    user: *mut c_void,
) -> hypr_code {
    // SAFETY: the arguments are as they are here.
    unsafe {
        perform(client, |turn| {
            let request = GenerateRequest {
                model: arguments::optional("model", model)?.map(str::to_owned),
                prompt: Prompt::Text(arguments::required("prompt", prompt)?.to_owned()),
                echo: false,
                sampling: arguments::options(options)?,
                priority: Priority::default(),
            };
            turn.ask("/generate", &request, &mut deliver(on_text, user)?)
        })
    }
}

/// Answers the last turn of a talk of `count` messages, oldest first. All else is as with hypr_generate().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_chat(
    client: *mut hypr_client,
    model: *const c_char,
    messages: *const hypr_message,
    count: usize,
    options: *const c_char,
    on_text: hypr_on_text,
    user: *mut c_void,
) -> hypr_code {
    // SAFETY: the arguments are as they are here.
    unsafe {
        perform(client, |turn| {
            let request = ChatRequest {
                model: arguments::optional("model", model)?.map(str::to_owned),
                messages: arguments::talk(messages, count)?,
                tools: Vec::new(),
                template_vars: Default::default(),
                sampling: arguments::options(options)?,
                priority: Priority::default(),
            };
            turn.ask("/chat", &request, &mut deliver(on_text, user)?)
        })
    }
}

/// Cancels the call under way, from any thread but not from a signal handler; the call returns HYPR_CANCELLED at once, or
/// HYPR_OK if its answer was complete. Without a call under way it does nothing, and a later call is not affected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_cancel(client: *mut hypr_client) {
    guard((), || {
        // SAFETY: `client` is as it is here.
        if let Some(client) = unsafe { borrow(client) } {
            client.cancel();
        }
    });
}

/// How the client's last call ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_error_code(client: *const hypr_client) -> hypr_code {
    guard(hypr_code::HYPR_FAULT, || {
        // SAFETY: `client` is as it is here.
        unsafe { borrow(client) }.map_or(hypr_code::HYPR_BAD_ARGUMENT, |client| client.error_code())
    })
}

/// What the client's last call failed with, for people; "" where it ended well. It is there until the client's next call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_error_text(client: *const hypr_client) -> *const c_char {
    guard(c"".as_ptr(), || {
        // SAFETY: `client` is as it is here; the text lives in the caller's client, not in the borrowed count.
        unsafe { borrow(client) }.map_or(c"client is NULL".as_ptr(), |client| client.error_text())
    })
}

/// After how many milliseconds the last call may be tried again; 0 where nobody knows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hypr_error_retry_ms(client: *const hypr_client) -> u64 {
    guard(0, || {
        // SAFETY: `client` is as it is here.
        unsafe { borrow(client) }.map_or(0, |client| client.error_retry_ms())
    })
}
