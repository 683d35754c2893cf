//! Starts the user's own daemon and waits until it answers. Invariant: of several hyp that start it together one does, and
//! the others wait for it.
use crate::connect::{self, Say, UserError, Via};
use crate::paths;
use crate::start_log::{Log, LogFile, open_private};
use std::fs::{File, TryLockError};
use std::io;
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
const UNIT: &str = "hyprstreamd";
/// Where to look when the user's unit fails.
pub const UNIT_HINT: &str =
    "see `systemctl --user status hyprstreamd` and `journalctl --user -u hyprstreamd`";

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
    /// systemd started it, and it does not answer.
    #[error("systemd started hyprstreamd, which does not answer after {} seconds", START.as_secs())]
    UnitSilent,
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
            StartError::Systemd { .. } | StartError::UnitSilent => Some(UNIT_HINT.to_owned()),
            StartError::Ended { log, .. } | StartError::Silent { log } => log
                .path
                .as_ref()
                .map(|path| format!("its log is {}", path.display())),
            StartError::Spawn { .. } | StartError::Waited | StartError::Socket(_) => None,
        }
    }
}

/// Starts the daemon and connects to it.
pub fn start(socket: &Path, say: Say<'_>) -> Result<(UnixStream, Via), StartError> {
    say("starting hyprstreamd");
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
                return Ok((stream, Via::Own));
            }
            Some(lock)
        }
        None => None,
    };
    if let Some(stream) = connect::user_daemon(socket)? {
        return Ok((stream, Via::Own));
    }
    if start_unit()? {
        return match await_answer(socket, deadline, None, &mut Log::default) {
            Ok(stream) => Ok((stream, Via::Unit)),
            Err(StartError::Silent { .. }) => Err(StartError::UnitSilent),
            Err(error) => Err(error),
        };
    }
    let log = LogFile::open(state.as_deref());
    let mut child = spawn(&log)?;
    let stream = await_answer(socket, deadline, Some(&mut child), &mut || log.read())?;
    Ok((stream, Via::Own))
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
