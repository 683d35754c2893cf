//! Gives memory back when the system runs short of it. Invariant: nothing that a request uses is taken, and a daemon that
//! holds nothing is not woken.
use crate::app::App;
use hyprstream_kernels::give_back_freed;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Tasks that waited for memory for 200 ms within 2 s: what systemd asks for too (its memory-pressure documentation).
const TRIGGER: &[u8] = b"some 200000 2000000\0";
/// Where the kernel lets us not wait for a trigger: look so often, while there is something to give.
const LOOK: Duration = Duration::from_secs(5);
/// Waiting in one look, in microseconds, that counts as pressure; the same share as the trigger's.
const LOOK_STALL_US: u64 = 500_000;
/// Pressure that comes again within this time asks for more.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two answers, so that the first one can show an effect.
const REST: Duration = Duration::from_secs(2);
/// The first time, only models that nobody used for so long go.
const UNUSED: Duration = Duration::from_secs(30);
const STACK_BYTES: usize = 64 << 10;
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// Where pressure shows.
enum Source {
    /// The kernel wakes us at this file, or somebody writes to this pipe or socket.
    Wakes(OwnedFd, PollFlags),
    /// A file with the time that was spent waiting.
    Total(PathBuf),
}

/// Gives memory back whenever there is pressure, for as long as the daemon lives.
pub async fn watch(app: Arc<App>) {
    let pressed = Arc::new(Notify::new());
    let file = match find() {
        Ok(Some(Source::Total(file))) => Some(file),
        Ok(Some(Source::Wakes(fd, flags))) => match wait_apart(fd, flags, Arc::clone(&pressed)) {
            Ok(()) => None,
            Err(error) => return tracing::warn!("memory pressure cannot be watched: {error}"),
        },
        Ok(None) => return,
        Err(error) => return tracing::warn!("memory pressure cannot be watched: {error}"),
    };
    let mut last: Option<Instant> = None;
    loop {
        match &file {
            None => pressed.notified().await,
            Some(file) => {
                if let Err(error) = look(file, &app).await {
                    return tracing::warn!("memory pressure is no longer watched: {error}");
                }
            }
        }
        let again = last.is_some_and(|last| last.elapsed() < AGAIN);
        last = Some(Instant::now());
        give_back(&app, again).await;
        sleep(REST).await;
    }
}

/// First the caches of models that nobody uses and models unused for a while, then all unused models.
async fn give_back(app: &App, again: bool) {
    let private = || crate::models::private_memory().unwrap_or_default();
    let before = private();
    app.engine.shrink();
    let unloaded = app
        .models
        .unload_unused(if again { Duration::ZERO } else { UNUSED });
    // The engine's thread frees; freed memory still has to leave the process.
    sleep(Duration::from_millis(200)).await;
    let _ = tokio::task::spawn_blocking(give_back_freed).await;
    let freed_mb = before.saturating_sub(private()) / 1_000_000;
    tracing::info!("memory is short: gave back {freed_mb} MB, unloaded {unloaded} models that nobody uses");
}

/// systemd says where to look (254 and newer), else it is the file of our own control group.
fn find() -> io::Result<Option<Source>> {
    let told = std::env::var_os("MEMORY_PRESSURE_WATCH").map(PathBuf::from);
    if let Some(path) = told {
        if path == Path::new("/dev/null") {
            return Ok(None);
        }
        let words = std::env::var("MEMORY_PRESSURE_WRITE").ok();
        let words = words.and_then(|text| from_base64(&text));
        return open(&path, words.as_deref()).map(Some);
    }
    let group = fs::read_to_string("/proc/self/cgroup")?;
    let Some(group) = group.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Ok(None);
    };
    let file = Path::new("/sys/fs/cgroup").join(group).join("memory.pressure");
    match open(&file, Some(TRIGGER)) {
        Ok(source) => Ok(Some(source)),
        // Older systemd leaves the file to root; it can still be read.
        Err(_) if total(&file).is_some() => Ok(Some(Source::Total(file))),
        Err(_) => Ok(None),
    }
}

fn open(path: &Path, words: Option<&[u8]>) -> io::Result<Source> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_socket() {
        let mut stream = UnixStream::connect(path)?;
        stream.write_all(words.unwrap_or_default())?;
        return Ok(Source::Wakes(stream.into(), PollFlags::IN));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(NONBLOCK)
        .open(path)?;
    if let Some(words) = words {
        file.write_all(words)?;
    }
    let flags = if kind.is_fifo() {
        PollFlags::IN
    } else {
        PollFlags::PRI
    };
    Ok(Source::Wakes(file.into(), flags))
}

/// Sleeps in a thread of its own until the kernel, or the writer, says that memory is short.
fn wait_apart(fd: OwnedFd, flags: PollFlags, pressed: Arc<Notify>) -> io::Result<()> {
    let wait = move || {
        loop {
            let mut fds = [PollFd::new(&fd, flags)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Err(error) => return tracing::warn!("memory pressure is no longer watched: {error}"),
                Ok(_) => {}
            }
            let came = fds.iter().fold(PollFlags::empty(), |all, fd| all | fd.revents());
            // The control group is gone, or the writer is; the words themselves mean nothing.
            let over = if flags.contains(PollFlags::IN) {
                matches!(rustix::io::read(&fd, &mut [0; 256]), Ok(0))
            } else {
                !came.contains(PollFlags::PRI)
            };
            if over {
                return tracing::warn!("memory pressure is no longer watched: its file is gone");
            }
            pressed.notify_one();
        }
    };
    thread::Builder::new()
        .name("pressure".into())
        .stack_size(STACK_BYTES)
        .spawn(wait)
        .map(drop)
}

/// Returns when memory is short, as the file tells who asks.
async fn look(file: &Path, app: &App) -> io::Result<()> {
    let mut changes = app.models.changes();
    let mut before = None;
    loop {
        while app.models.is_empty() {
            before = None;
            changes.changed().await.map_err(io::Error::other)?;
        }
        let now = total(file).ok_or(io::ErrorKind::InvalidData)?;
        if before.is_some_and(|before| now.saturating_sub(before) > LOOK_STALL_US) {
            return Ok(());
        }
        before = Some(now);
        sleep(LOOK).await;
    }
}

/// Microseconds that some task waited for memory: `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`.
fn total(file: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(file).ok()?.take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split("total=").nth(1)?.trim().parse().ok()
}

/// RFC 4648. `None`: it is not that.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0u32);
    for letter in text.trim().trim_end_matches('=').bytes() {
        let value = LETTERS.iter().position(|l| *l == letter)?;
        held = (held << 6) | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_words_are_read() {
        assert_eq!(
            from_base64("c29tZSAyMDAwMDAgMjAwMDAwMAA=").as_deref(),
            Some(TRIGGER)
        );
        assert_eq!(from_base64("").as_deref(), Some(&b""[..]));
        assert_eq!(from_base64("no words"), None);
    }

    #[test]
    fn the_time_spent_waiting_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.pressure");
        fs::write(
            &file,
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
        )
        .unwrap();
        assert_eq!(total(&file), Some(1234));
        fs::write(&file, "nonsense").unwrap();
        assert_eq!(total(&file), None);
    }
}
