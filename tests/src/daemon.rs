//! A private `hyprstreamd` in a folder of its own. Invariant: it ends, and its folder goes, with the value.
use crate::bus::Bus;
use crate::program::{self, Ended};
use crate::wire::{self, Reply};
use crate::{fixtures, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use tempfile::TempDir;

const SYSTEM_BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// The daemon.
pub struct Daemon {
    child: Child,
    folder: TempDir,
    /// Variables that it is started with: those that name a bus, say.
    variables: Vec<(&'static str, String)>,
}

impl Daemon {
    /// With the tiny model alone.
    pub fn tiny() -> Daemon {
        Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], "")
    }

    /// With these models, under these names, and this configuration. Waits until it answers and lists them.
    pub fn with(models: &[(PathBuf, &str)], config: &str) -> Daemon {
        Daemon::launch(models, config, &[])
    }

    /// The same with the tiny model, on this bus too.
    pub fn on_bus(bus: &Bus, config: &str) -> Daemon {
        let config = format!("[dbus]\nbus = \"system\"\n{config}");
        let daemon = Daemon::launch(
            &[(fixtures::tiny(), "tiny.gguf")],
            &config,
            &[(SYSTEM_BUS, bus.address())],
        );
        bus.await_name();
        daemon
    }

    /// The same on this bus as the user's own.
    pub fn on_session_bus(bus: &Bus) -> Daemon {
        let config = "[dbus]\nbus = \"session\"\n";
        let address = ("DBUS_SESSION_BUS_ADDRESS", bus.address());
        let daemon = Daemon::launch(&[(fixtures::tiny(), "tiny.gguf")], config, &[address]);
        bus.await_name();
        daemon
    }

    /// With the tiny model, and this address as that of the system's bus.
    pub fn on_address(address: &str, config: &str) -> Daemon {
        Daemon::launch(
            &[(fixtures::tiny(), "tiny.gguf")],
            config,
            &[(SYSTEM_BUS, address.to_owned())],
        )
    }

    fn launch(models: &[(PathBuf, &str)], config: &str, variables: &[(&'static str, String)]) -> Daemon {
        let folder = tempfile::Builder::new()
            .prefix("hyprstream-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        for (model, name) in models {
            fixtures::install(model, &folder.path().join("models"), name);
        }
        // Several daemons run side by side: one compute thread each, unless the test says otherwise.
        let config = if config.contains("[runtime]") {
            config.to_owned()
        } else {
            format!("{config}\n[runtime]\nthreads = 1\n")
        };
        fs::write(folder.path().join("test.toml"), config).unwrap();
        File::create(folder.path().join("log")).unwrap();
        let child = start(folder.path(), variables);
        let mut daemon = Daemon {
            child,
            folder,
            variables: variables.to_vec(),
        };
        daemon.await_answer();
        for (_, name) in models {
            daemon.await_model(name.trim_end_matches(".gguf"));
        }
        daemon
    }

    fn await_answer(&mut self) {
        wait::until("the daemon answers", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            wire::try_get(&self.socket(), "/hyprstream/v1/status").filter(|reply| reply.status == 200)
        });
    }

    /// Stops it in order and starts it again, on the same folders.
    pub fn restart(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.ended().code(), Some(0), "{}", self.log());
        self.child = start(self.folder.path(), &self.variables);
        self.await_answer();
    }

    /// The same with this variable, from now on.
    pub fn restart_with(&mut self, variable: &'static str, value: &str) {
        self.variables.retain(|(name, _)| *name != variable);
        self.variables.push((variable, value.to_owned()));
        self.restart();
    }

    /// Kills it and starts it again, on the same folders.
    pub fn kill_and_start(&mut self) {
        self.signal(Signal::KILL);
        program::wait_for(&mut self.child, wait::SOON);
        self.child = start(self.folder.path(), &self.variables);
        self.await_answer();
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Its models folder.
    pub fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A `hyp` command against it.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        program::hyp(&self.socket(), args)
    }

    /// Runs `hyp` against it.
    pub fn hyp<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        program::run(&mut self.command(args))
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Reply {
        wire::get(&self.socket(), path)
    }

    /// `POST` of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        wire::post(&self.socket(), path, body)
    }

    /// A line of `GET /models`, by name.
    pub fn model(&self, name: &str) -> Option<Value> {
        let models = self.get("/hyprstream/v1/models").json();
        models["models"]
            .as_array()
            .unwrap()
            .iter()
            .find(|model| model["name"] == name)
            .cloned()
    }

    /// Waits until a model is listed.
    pub fn await_model(&self, name: &str) -> Value {
        wait::until(&format!("{name} is listed"), || self.model(name))
    }

    /// What runs and waits.
    pub fn jobs(&self) -> Vec<Value> {
        self.get("/hyprstream/v1/jobs").json()["jobs"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Waits until nothing runs or waits.
    pub fn await_rest(&self) {
        wait::until("no job is left", || self.jobs().is_empty().then_some(()));
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        program::signal_child(&self.child, signal);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let status = program::wait_for(&mut self.child, wait::SOON);
        assert!(!self.log().contains("panicked"), "{}", self.log());
        status
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
    }
}

fn start(folder: &Path, variables: &[(&str, String)]) -> Child {
    let log = File::options().append(true).open(folder.join("log")).unwrap();
    command(folder)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The command of a private instance in this folder; its configuration is test.toml there.
pub fn command(folder: &Path) -> Command {
    let mut command = program::command(&program::built("hyprstreamd"), folder);
    command
        .arg("--socket")
        .arg(socket(folder))
        .arg("--config")
        .arg(folder.join("test.toml"));
    for (flag, name) in [("--models", "models"), ("--state", "state"), ("--cache", "cache")] {
        command.arg(flag).arg(folder.join(name));
    }
    command
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("hyprstream.sock")
}
