//! Runs the built programs. Invariant: no program outlives its test, and none is waited for without end.
use crate::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A command of `hyp` that takes longer than this hangs.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// A built program, beside the test programs' folder. `HYPRSTREAM_BIN` names another folder.
pub fn built(name: &str) -> PathBuf {
    let folder = match std::env::var_os("HYPRSTREAM_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()
            .unwrap()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned(),
    };
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is absent: run `cargo build -p hyprstreamd -p hyprstream-client -p hyprstream-capi` first",
        program.display()
    );
    program
}

/// A command that knows nothing of the user who runs the tests: home and variables are those of `home`.
pub fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home);
    command
        .env("LANG", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null());
    for name in ["HYPRSTREAM_ISA", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// `hyp` against one socket.
pub fn hyp<A: AsRef<OsStr>>(socket: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let home = socket.parent().unwrap();
    let mut command = command(&built("hyp"), home);
    command.arg("--socket").arg(socket).args(args);
    command
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// The output of a program that must succeed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The messages of a program that must fail with this code.
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.err.is_empty(), "it failed in silence: {self:?}");
        self.err
    }

    /// The output as JSON.
    pub fn json(self) -> serde_json::Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
    }

    /// The output as JSON, one value a line.
    pub fn lines(self) -> Vec<serde_json::Value> {
        let out = self.ok();
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// A program at work. Ends with this value.
pub struct Running {
    child: Child,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts it and reads what it says.
    pub fn start(command: &mut Command) -> Running {
        Running::fed(command, None)
    }

    /// The same, with standard input.
    pub fn fed(command: &mut Command, input: Option<&[u8]>) -> Running {
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (Arc::default(), Arc::default());
        let mut readers = vec![
            collect(child.stdout.take().unwrap(), &out),
            collect(child.stderr.take().unwrap(), &err),
        ];
        if let Some(input) = input
            && let Some(mut stdin) = child.stdin.take()
        {
            let input = input.to_vec();
            // A program that refuses its input early closes the pipe; its exit code tells that.
            readers.push(std::thread::spawn(move || drop(stdin.write_all(&input))));
        }
        Running {
            child,
            out,
            err,
            readers,
        }
    }

    /// Starts it with an open standard input, to be spoken to.
    pub fn spoken_to(command: &mut Command) -> (Running, ChildStdin) {
        command.stdin(Stdio::piped());
        let mut running = Running::fed(command, None);
        let stdin = running.child.stdin.take().unwrap();
        (running, stdin)
    }

    /// What it has complained about so far.
    pub fn errors(&self) -> String {
        text(&self.err)
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        text(&self.out)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_child(&self.child, signal);
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let status = wait_for(&mut self.child, COMMAND_MAX);
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ended {
            code: status.code(),
            out: text(&self.out),
            err: text(&self.err),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).end()
}

/// Runs a command that reads this.
pub fn run_with(command: &mut Command, input: &[u8]) -> Ended {
    Running::fed(command, Some(input)).end()
}

/// Waits for a child's end, and kills it when it does not come.
pub fn wait_for(child: &mut Child, limit: Duration) -> ExitStatus {
    wait::within(limit, "a program ends", || child.try_wait().unwrap())
}

/// Sends a signal to a child that was not waited for yet.
pub fn signal_child(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = into.clone();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            into.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    })
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned()
}
