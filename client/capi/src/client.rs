//! One client: where its daemon is, the call under way, the last error. Invariant: no lock is held while the daemon is waited
//! for or the caller's code runs, so that any thread can cancel, the callback too.
use crate::code::hypr_code;
use crate::failure::Failure;
use hyprstream_client::connect;
use hyprstream_client::http::{CallError, Client};
use hyprstream_protocol::{Event, Status};
use serde::Serialize;
use std::any::Any;
use std::ffi::{CString, c_char};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the daemon is looked for.
#[derive(Clone, Debug)]
pub enum Place {
    /// This socket alone.
    Named(PathBuf),
    /// `$HYPRSTREAM_SOCKET`, else the system's, else the user's own.
    Found,
}

#[derive(Debug, Default)]
struct Call {
    stream: Option<UnixStream>,
    cancelled: bool,
}

#[derive(Debug)]
struct LastError {
    code: hypr_code,
    text: CString,
    retry_ms: u64,
}

impl Default for LastError {
    fn default() -> Self {
        LastError {
            code: hypr_code::HYPR_OK,
            text: CString::default(),
            retry_ms: 0,
        }
    }
}

impl LastError {
    fn of(failure: &Failure) -> LastError {
        LastError {
            code: failure.code(),
            // A text for C ends where its first NUL is.
            text: CString::new(failure.to_string().replace('\0', "\u{fffd}")).unwrap_or_default(),
            retry_ms: failure.retry_ms(),
        }
    }
}

/// A client: where its daemon is, and its last error. One call at a time; hypr_cancel() and hypr_free() may come at any time.
#[derive(Debug, Default)]
#[allow(non_camel_case_types)] // The header has this name.
pub struct hypr_client {
    place: Mutex<Option<Place>>,
    call: Mutex<Option<Call>>,
    error: Mutex<LastError>,
}

/// What a piece of text goes to; `false` ends the answer.
pub type OnText<'a> = &'a mut dyn FnMut(&str) -> bool;

const BY_CALLER: Failure = Failure::Cancelled { by: "caller" };

/// A call under way; its end is the end of this value.
#[derive(Debug)]
pub struct Turn<'a>(&'a hypr_client);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.call) = None;
    }
}

impl Turn<'_> {
    /// Looks for the daemon there from now on, if it answers.
    pub fn connect(&self, place: Place) -> Result<(), Failure> {
        // What answered before counts no longer, whatever this leads to.
        *lock(&self.0.place) = None;
        let reply = self.open(place.clone())?.get("/status")?;
        reply.parse::<Status>()?;
        *lock(&self.0.place) = Some(place);
        Ok(())
    }

    /// Sends a request and hands on the text of its answer.
    pub fn ask(&self, path: &str, request: &impl Serialize, on_text: OnText<'_>) -> Result<(), Failure> {
        let place = lock(&self.0.place).clone().ok_or(Failure::NotConnected)?;
        for line in self.open(place)?.events(path, request)? {
            match line?.event {
                Event::Token(token) if !token.text.is_empty() => {
                    self.check()?;
                    if !on_text(&token.text) {
                        return Err(Failure::Cancelled { by: "callback" });
                    }
                }
                Event::Done { .. } => return Ok(()),
                Event::Error(body) => return Err(CallError::Daemon(body).into()),
                _ => {}
            }
        }
        Err(CallError::Closed.into())
    }

    /// A connection that [`hypr_client::cancel`] can shut down. The daemon is never started from here: a program that loads a
    /// library does not expect another process of it.
    fn open(&self, place: Place) -> Result<Client, Failure> {
        let name = match place {
            Place::Named(path) => Some(path),
            Place::Found => connect::named_by_environment(),
        };
        let stream = connect::open(name, None)?.stream;
        let handle = stream.try_clone().map_err(CallError::Io)?;
        if let Some(call) = lock(&self.0.call).as_mut() {
            call.stream = Some(handle);
        }
        // A cancel before this line saw no connection to shut down.
        self.check()?;
        Ok(Client::new(stream))
    }

    fn is_cancelled(&self) -> bool {
        lock(&self.0.call).as_ref().is_some_and(|call| call.cancelled)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.is_cancelled() {
            Err(BY_CALLER)
        } else {
            Ok(())
        }
    }
}

impl hypr_client {
    /// Does one call and keeps the error that it ends with. What comes while another is under way is refused and leaves no trace.
    pub fn perform(&self, work: impl FnOnce(&Turn<'_>) -> Result<(), Failure>) -> hypr_code {
        {
            let mut call = lock(&self.call);
            if call.is_some() {
                return hypr_code::HYPR_IN_USE;
            }
            *call = Some(Call::default());
        }
        let turn = Turn(self);
        // What a panic leaves half done is the turn's alone, and it ends here.
        let result = catch_unwind(AssertUnwindSafe(|| work(&turn)))
            .unwrap_or_else(|panic| Err(Failure::Fault(panic_text(panic.as_ref()))));
        let result = match result {
            Err(Failure::Cancelled { by }) => Err(Failure::Cancelled { by }),
            // A connection that was shut down from here fails in some way or other.
            Err(_) if turn.is_cancelled() => Err(BY_CALLER),
            other => other,
        };
        let last = result
            .as_ref()
            .map_or_else(LastError::of, |()| LastError::default());
        let code = last.code;
        *lock(&self.error) = last;
        code
    }

    /// Ends the call under way.
    pub fn cancel(&self) {
        if let Some(call) = lock(&self.call).as_mut() {
            call.cancelled = true;
            if let Some(stream) = &call.stream {
                // An error means that it is closed already, which is what is wanted.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// The last call's code.
    pub fn error_code(&self) -> hypr_code {
        lock(&self.error).code
    }

    /// The last call's text, which stays where it is until the next call ends.
    pub fn error_text(&self) -> *const c_char {
        lock(&self.error).text.as_ptr()
    }

    /// After how many milliseconds the last call may be tried again.
    pub fn error_retry_ms(&self) -> u64 {
        lock(&self.error).retry_ms
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no word of what went wrong")
        .to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code() {
        let client = hypr_client::default();
        let code = client.perform(|_| std::panic::resume_unwind(Box::new("a bad day")));
        assert_eq!(code, hypr_code::HYPR_FAULT);
        assert!(
            lock(&client.error)
                .text
                .to_str()
                .unwrap()
                .ends_with(": a bad day")
        );
        assert_eq!(client.perform(|_| Ok(())), hypr_code::HYPR_OK);
        assert_eq!(lock(&client.error).text.as_c_str(), c"");
    }

    #[test]
    fn one_call_at_a_time() {
        let client = hypr_client::default();
        let code = client.perform(|_| {
            assert_eq!(client.perform(|_| Ok(())), hypr_code::HYPR_IN_USE);
            Err(Failure::NotConnected)
        });
        assert_eq!((code, client.error_code()), (hypr_code::HYPR_NOT_CONNECTED, code));
    }

    #[test]
    fn a_cancel_counts_whatever_breaks() {
        let client = hypr_client::default();
        let code = client.perform(|_| {
            client.cancel();
            Err(CallError::Closed.into())
        });
        assert_eq!(code, hypr_code::HYPR_CANCELLED);
        client.cancel();
        assert_eq!(
            client.perform(|turn| turn.check()),
            hypr_code::HYPR_OK,
            "a cancel outlived its call"
        );
    }

    #[test]
    fn a_text_with_nul_is_told_whole() {
        let client = hypr_client::default();
        client.perform(|_| Err(Failure::argument("a\0b", "is odd")));
        assert_eq!(lock(&client.error).text.to_str().unwrap(), "a\u{fffd}b is odd");
    }
}
