//! A file that a caller handed over, to be copied. Invariant: whatever touches it is on a thread that may hang, as a file
//! of FUSE or NFS may never answer, and of such threads there are few.
use crate::errors::Failure;
use hyprstream_protocol::{ErrorBody, ErrorCode};
use rustix::fs::{OFlags, fcntl_getfl};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many files are open at once, those that hang among them.
const OPEN_MAX: usize = 8;
/// A file says within so long what it is.
const ANSWER_MAX: Duration = Duration::from_secs(5);

static READERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(OPEN_MAX)));

/// What can be copied.
pub trait Source: Send + 'static {
    /// Its length.
    fn bytes(&self) -> u64;
    /// Reads a piece, wherever the caller's own reading stands. Blocks, perhaps for ever.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, Failure>;
}

/// A file of a caller's.
pub struct Handed {
    file: File,
    bytes: u64,
    _reader: OwnedSemaphorePermit,
}

impl Handed {
    /// Takes a descriptor, if it is a regular file that may be read.
    pub async fn open(descriptor: OwnedFd) -> Result<Handed, Failure> {
        let reader = Arc::clone(&READERS).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{OPEN_MAX} files that were handed over are read, or do not answer; try again in a moment"
            );
            Failure(ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(2_000))
        })?;
        let looking = tokio::task::spawn_blocking(move || look(descriptor, reader));
        match tokio::time::timeout(ANSWER_MAX, looking).await {
            Ok(Ok(handed)) => handed,
            Ok(Err(_)) => Err(Failure::fault("looking at a file broke off")),
            Err(_) => Err(Failure::bad_field("file", "`file` does not answer")),
        }
    }
}

fn look(descriptor: OwnedFd, reader: OwnedSemaphorePermit) -> Result<Handed, Failure> {
    let wrong = |what: &str| Failure::bad_field("file", format!("`file` must be {what}"));
    let flags = fcntl_getfl(&descriptor).map_err(|_| wrong("an open file"))?;
    // O_PATH is no right to read, whatever else is set.
    if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
        return Err(wrong("open for reading"));
    }
    let file = File::from(descriptor);
    let metadata = file.metadata().map_err(|_| wrong("an open file"))?;
    // A pipe could keep a thread waiting for as long as its writer likes.
    if !metadata.is_file() {
        return Err(wrong("a regular file, not a pipe, a socket or a folder"));
    }
    let bytes = metadata.len();
    Ok(Handed {
        file,
        bytes,
        _reader: reader,
    })
}

impl Source for Handed {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, Failure> {
        self.file
            .read_at(buffer, at)
            .map_err(|error| Failure::new(ErrorCode::BadRequest, format!("the file cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io;

    #[tokio::test]
    async fn only_files_that_can_be_read_are_taken() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(Handed::open(reader.into()).await.is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "12345").unwrap();
        let source = Handed::open(File::open(&path).unwrap().into()).await.unwrap();
        let mut bytes = [0; 9];
        assert_eq!((source.bytes(), source.read_at(&mut bytes, 3).unwrap()), (5, 2));
        let written = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(Handed::open(written.into()).await.is_err());
        let folder = File::open(folder.path()).unwrap();
        assert!(Handed::open(folder.into()).await.is_err());
        // What is refused holds no place.
        let open = |_| async { Handed::open(File::open(&path).unwrap().into()).await };
        for at in 0..2 * OPEN_MAX {
            open(at).await.unwrap();
        }
        let mut held = Vec::new();
        while let Ok(source) = open(0).await {
            held.push(source);
        }
        assert_eq!(held.len(), OPEN_MAX - 1);
    }
}
