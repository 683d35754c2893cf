//! Starts the user's own daemon and waits until it answers. Invariant: of several hyp that start it together one does, and
//! the others wait for it.
use crate::connect::{self, UserError};
use crate::paths;
use crate::spinner::Spinner;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the daemon's first sign of life.
const START: Duration = Duration::from_secs(15);
/// How long to go on after the daemon that was started here has ended: another one may have come first.
const GRACE: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(30);
/// A log larger than this is begun anew.
const LOG_BYTES_MAX: u64 = 1 << 20;
const UNIT: &str = "hyprstreamd";

/// Why the user's own daemon did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No program to start.
    #[error("no daemon runs, and hyprstreamd is neither beside hyp nor in PATH")]
    NoProgram,
    /// It cannot be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// systemd could not start it.
    #[error("`systemctl --user start` failed: {said}")]
    Systemd {
        /// What systemctl said.
        said: String,
    },
    /// It ended before it answered.
    #[error("hyprstreamd ended at once ({status}){}", .log.quoted())]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        log: Log,
    },
    /// It does not answer.
    #[error("hyprstreamd was started, but does not answer after {} seconds{}", START.as_secs(), .log.quoted())]
    Silent {
        /// What it said.
        log: Log,
    },
    /// Another hyp is starting it, and does not get on.
    #[error("another hyp is starting hyprstreamd, which does not answer after {} seconds", START.as_secs())]
    Waited,
    /// Its socket cannot be used.
    #[error("the user's own socket cannot be used: {0}")]
    Socket(#[from] UserError),
}

impl StartError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::NoProgram => {
                Some("install hyprstreamd, or name a running daemon with --socket".to_owned())
            }
            StartError::Systemd { .. } => Some(format!("see `journalctl --user -u {UNIT}`")),
            StartError::Ended { log, .. } | StartError::Silent { log } => log
                .path
                .as_ref()
                .map(|path| format!("its log is {}", path.display())),
            StartError::Spawn { .. } | StartError::Waited | StartError::Socket(_) => None,
        }
    }
}

/// What a daemon wrote before it failed.
#[derive(Debug, Default)]
pub struct Log {
    path: Option<PathBuf>,
    last: Vec<String>,
}

impl Log {
    fn quoted(&self) -> String {
        self.last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// Starts the daemon and connects to it.
pub fn start(socket: &Path, spinner: &Spinner) -> Result<UnixStream, StartError> {
    spinner.say("starting hyprstreamd");
    let deadline = Instant::now() + START;
    let state = paths::state_folder();
    // Held until this function returns. Without a state folder nobody else is kept out, and the daemon itself, which
    // refuses to run twice, decides.
    let _lock = match state
        .as_deref()
        .and_then(|folder| open_private(&folder.join("start.lock")).ok())
    {
        Some(lock) => {
            if let Some(stream) = await_turn(&lock, socket, deadline)? {
                return Ok(stream);
            }
            Some(lock)
        }
        None => None,
    };
    if let Some(stream) = connect::user_daemon(socket)? {
        return Ok(stream);
    }
    if start_unit()? {
        return await_answer(socket, deadline, None, &mut || Log::default());
    }
    let log = LogFile::open(state.as_deref());
    let mut child = spawn(&log)?;
    await_answer(socket, deadline, Some(&mut child), &mut || log.read())
}

/// Waits for the lock, or for the daemon that its holder starts.
fn await_turn(lock: &File, socket: &Path, deadline: Instant) -> Result<Option<UnixStream>, StartError> {
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(None),
            // A file system without locks: as if there were no lock file.
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(stream) = connect::user_daemon(socket)? {
            return Ok(Some(stream));
        }
        if Instant::now() >= deadline {
            return Err(StartError::Waited);
        }
        std::thread::sleep(POLL);
    }
}

fn await_answer(
    socket: &Path,
    deadline: Instant,
    mut child: Option<&mut Child>,
    log: &mut dyn FnMut() -> Log,
) -> Result<UnixStream, StartError> {
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        if let Some(stream) = connect::user_daemon(socket)? {
            return Ok(stream);
        }
        if let (None, Some(child)) = (ended, child.as_deref_mut()) {
            // An error means that nothing is known of the child; the deadline still holds.
            ended = child
                .try_wait()
                .ok()
                .flatten()
                .map(|status| (status, Instant::now()));
        }
        if let Some((status, at)) = ended
            && at.elapsed() >= GRACE
        {
            return Err(StartError::Ended { status, log: log() });
        }
        if Instant::now() >= deadline {
            return Err(StartError::Silent { log: log() });
        }
        std::thread::sleep(POLL);
    }
}

/// Has systemd start it where its unit is installed for users; `false` where it is not.
fn start_unit() -> Result<bool, StartError> {
    let systemctl = |arguments: &[&str]| {
        Command::new("systemctl")
            .arg("--user")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
    };
    let known = |unit: &str| systemctl(&["cat", unit]).is_ok_and(|output| output.status.success());
    let (service, socket) = (format!("{UNIT}.service"), format!("{UNIT}.socket"));
    if !known(&service) {
        return Ok(false);
    }
    let unit = if known(&socket) { socket } else { service };
    match systemctl(&["start", &unit]) {
        Ok(output) if output.status.success() => Ok(true),
        Ok(output) => Err(StartError::Systemd {
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(error) => Err(StartError::Systemd {
            said: error.to_string(),
        }),
    }
}

fn program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(UNIT)))
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(UNIT))
}

fn spawn(log: &LogFile) -> Result<Child, StartError> {
    let program = program();
    // A group of its own: Ctrl-C at the terminal is meant for hyp, not for the daemon that others use too.
    let spawned = Command::new(&program)
        .args(["--user", "--idle-exit", "10m"])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.stdio())
        .stderr(log.stdio())
        .spawn();
    spawned.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StartError::NoProgram,
        _ => StartError::Spawn { program, source },
    })
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The file that takes what the daemon writes, and where this start's part of it begins.
struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
    from: u64,
}

impl LogFile {
    fn open(state: Option<&Path>) -> LogFile {
        let path = state.map(|folder| folder.join("hyprstreamd.log"));
        let file = path.as_deref().and_then(|path| open_private(path).ok());
        let mut from = file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |about| about.len());
        if let Some(path) = path.as_deref()
            && from > LOG_BYTES_MAX
            && fs::rename(path, path.with_extension("log.old")).is_ok()
        {
            let file = open_private(path).ok();
            return LogFile {
                path: Some(path.to_owned()),
                file,
                from: 0,
            };
        }
        if file.is_none() {
            from = 0;
        }
        LogFile { path, file, from }
    }

    fn stdio(&self) -> Stdio {
        match self.file.as_ref().and_then(|file| file.try_clone().ok()) {
            Some(file) => Stdio::from(file),
            None => Stdio::null(),
        }
    }

    /// The last lines that this start added.
    fn read(&self) -> Log {
        let last = self.tail().map(|text| last_lines(&text)).unwrap_or_default();
        Log {
            path: self.path.clone().filter(|_| self.file.is_some()),
            last,
        }
    }

    fn tail(&self) -> Option<String> {
        const TAIL_BYTES: u64 = 4096;
        let mut file = File::open(self.path.as_deref()?).ok()?;
        let end = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(self.from.max(end.saturating_sub(TAIL_BYTES))))
            .ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn last_lines(text: &str) -> Vec<String> {
    const LINES: usize = 5;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(LINES))
        .map(|line| crate::print::one_line(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_its_last_lines() {
        let text = (0..9).map(|i| format!("line {i}\n\n")).collect::<String>();
        assert_eq!(
            last_lines(&text),
            ["line 4", "line 5", "line 6", "line 7", "line 8"]
        );
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn a_log_begins_where_this_start_begins() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hyprstreamd.log"), "old\n").unwrap();
        let log = LogFile::open(Some(folder.path()));
        io::Write::write_all(&mut log.file.as_ref().unwrap(), b"new\n").unwrap();
        assert_eq!(log.read().last, ["new"]);
    }

    #[test]
    fn a_large_log_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("hyprstreamd.log"),
            vec![b'x'; LOG_BYTES_MAX as usize + 1],
        )
        .unwrap();
        let log = LogFile::open(Some(folder.path()));
        assert_eq!(log.from, 0);
        assert!(folder.path().join("hyprstreamd.log.old").exists());
        assert_eq!(
            fs::metadata(folder.path().join("hyprstreamd.log")).unwrap().len(),
            0
        );
    }
}
