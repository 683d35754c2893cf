//! `hyp install`: a model file into the daemon's models folder.
use super::Session;
use crate::exit::Failure;
use crate::flags::InstallFlags;
use crate::http::segment;
use crate::input::InputError;
use crate::spinner::Spinner;
use hyprstream_protocol::FileReply;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};

/// Sends the file; the daemon checks it and lists it.
pub fn run(session: &Session, flags: &InstallFlags) -> Result<(), Failure> {
    let shown = flags.file.display().to_string();
    let unreadable = |source| InputError::Io {
        name: shown.clone(),
        source,
    };
    // Before it is opened, since a pipe would hold us up.
    if !fs::metadata(&flags.file).map_err(unreadable)?.is_file() {
        let what = io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a file; a model is one GGUF file here",
        );
        return Err(unreadable(what).into());
    }
    let file = File::open(&flags.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let stem = || {
        flags
            .file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let name = flags.name.clone().or_else(stem).unwrap_or_default();
    let sending = Sending {
        file,
        spinner: session.spinner.clone(),
        name: name.clone(),
        sent: 0,
        bytes: metadata.len(),
        shown: None,
    };
    let path = format!("/models/{}", segment(&name));
    let reply = session.client()?.upload(&path, sending, metadata.len())?;
    session.reply(&reply, |_, reply: FileReply| {
        session.remark(&format!("{} is installed", reply.model));
        Ok(())
    })
}

/// Tells how much of the file is sent.
struct Sending {
    file: File,
    spinner: Spinner,
    name: String,
    sent: u64,
    bytes: u64,
    shown: Option<u64>,
}

impl Read for Sending {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.sent = self.sent.saturating_add(count as u64);
        let percent = self.sent.saturating_mul(100) / self.bytes.max(1);
        if self.shown.replace(percent) != Some(percent) {
            self.spinner.say(format!("installing {}: {percent}%", self.name));
        }
        Ok(count)
    }
}
