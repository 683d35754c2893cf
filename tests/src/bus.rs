//! A bus of a test's own, and clients on it. Invariant: nothing reaches the machine's buses, and everything ends with its
//! value.
use crate::program::{Running, command};
use crate::{fixtures, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The daemon's name.
pub const NAME: &str = "org.hyprstream.Daemon1";
/// Its object.
pub const PATH: &str = "/org/hyprstream/Daemon1";
/// Debian's own, which has the packages of the distribution.
const PYTHON: &str = "/usr/bin/python3";

/// What the machine's own system bus says, with the shipped policy below it.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=FOLDER/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow own="org.freedesktop.login1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.login1"/>
  </policy>
  <include>POLICY</include>
</busconfig>
"#;

/// A `dbus-daemon`.
pub struct Bus {
    daemon: Option<Running>,
    folder: TempDir,
}

impl Bus {
    /// Starts one; `None`, and a word about it, where the programs are absent.
    pub fn start() -> Option<Bus> {
        let works = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if !works("dbus-daemon", &["--version"]) {
            fixtures::skipped("D-Bus: dbus-daemon is absent");
            return None;
        }
        if !works(PYTHON, &["-c", "import dbus, gi"]) {
            fixtures::skipped("D-Bus: python3-dbus or python3-gi is absent");
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("hyprstream-bus-")
            .tempdir()
            .unwrap();
        // Other users of the machine are clients too.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let policy = fixtures::root().join("packaging/dbus/org.hyprstream.Daemon1.conf");
        let config = CONFIG
            .replace("FOLDER", folder.path().to_str().unwrap())
            .replace("POLICY", policy.to_str().unwrap());
        fs::write(folder.path().join("config"), config).unwrap();
        for script in [
            "tests/clients/bus_caller.py",
            "tests/clients/bus_services.py",
            "packaging/examples/desktop.py",
        ] {
            let from = fixtures::root().join(script);
            fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
        }
        let mut bus = Bus { daemon: None, folder };
        bus.up();
        Some(bus)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    /// Starts it again after [`Bus::down`].
    pub fn up(&mut self) {
        let mut command = command(Path::new("dbus-daemon"), self.folder.path());
        command.args(["--nofork", "--nopidfile", "--config-file"]);
        command.arg(self.folder.path().join("config"));
        self.daemon = Some(Running::start(&mut command));
        wait::until("the bus listens", || {
            std::os::unix::net::UnixStream::connect(self.socket()).ok()
        });
    }

    /// Ends it.
    pub fn down(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(Signal::TERM);
            daemon.end();
        }
        // A bus that was killed leaves it.
        let _ = fs::remove_file(self.socket());
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// A folder that every user can read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program that knows this bus as the system's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = command(Path::new(program), self.folder.path());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        command
    }

    /// A script of tests/clients or packaging/examples.
    pub fn script(&self, name: &str) -> Command {
        let mut command = self.command(PYTHON);
        command.arg(self.folder.path().join(name));
        command
    }

    /// A client with the test's own user.
    pub fn caller(&self) -> Caller {
        Caller::start(&mut self.script("bus_caller.py"), &self.address())
    }

    /// A client with another user; for tests that run as root.
    pub fn caller_as(&self, uid: u32) -> Caller {
        let mut script = self.script("bus_caller.py");
        script.uid(uid).gid(uid);
        Caller::start(&mut script, &self.address())
    }

    /// What stands in for polkit and logind, with these rules.
    pub fn services(&self, rules: &Value) -> Services {
        let file = self.folder.path().join("rules");
        fs::write(&file, rules.to_string()).unwrap();
        let mut script = self.script("bus_services.py");
        script.arg(self.address()).arg(file);
        let mut lines = Lines::start(&mut script);
        lines.await_line("the services are there", |line| line["ready"].is_array());
        Services(lines)
    }

    /// Waits until the daemon has its name.
    pub fn await_name(&self) {
        let mut caller = self.caller();
        wait::until("the daemon is on the bus", || {
            let call = json!({"call": ["/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", [NAME]], "to": "org.freedesktop.DBus"});
            (caller.ask(&call).ok()?[0] == true).then_some(())
        });
    }
}

/// A program that speaks JSON lines.
struct Lines {
    running: Running,
    stdin: std::process::ChildStdin,
    seen: usize,
    kept: Vec<Value>,
}

impl Lines {
    fn start(command: &mut Command) -> Lines {
        let (running, stdin) = Running::spoken_to(command);
        Lines {
            running,
            stdin,
            seen: 0,
            kept: Vec::new(),
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Takes the first line that fits; others are kept.
    fn take_line(&mut self, fits: &dyn Fn(&Value) -> bool) -> Option<Value> {
        let all = self.running.output();
        let whole = all.rfind('\n').map_or(0, |end| end + 1);
        for line in all[self.seen..whole].lines() {
            self.kept.push(serde_json::from_str(line).unwrap());
        }
        self.seen = whole;
        let at = self.kept.iter().position(fits)?;
        Some(self.kept.remove(at))
    }

    fn await_line(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || {
            let line = self.take_line(&fits);
            assert!(
                line.is_some() || self.running.is_running(),
                "it ended: {}",
                self.running.errors()
            );
            line
        })
    }
}

/// A client on the bus.
pub struct Caller(Lines, String);

/// Name and message of an error.
pub type CallError = (String, String);

impl Caller {
    fn start(script: &mut Command, address: &str) -> Caller {
        script.arg(address);
        let mut lines = Lines::start(script);
        let hello = lines.await_line("the client is on the bus", |line| line["name"].is_string());
        Caller(lines, hello["name"].as_str().unwrap().to_owned())
    }

    /// Its unique name.
    pub fn name(&self) -> &str {
        &self.1
    }

    /// Gives it a command and waits for the result.
    pub fn ask(&mut self, command: &Value) -> Result<Value, CallError> {
        self.0.say(&command.to_string());
        let line = self.0.await_line(&command.to_string(), |line| {
            line.get("ok").is_some() || line.get("error").is_some()
        });
        match line.get("ok") {
            Some(result) => Ok(result.clone()),
            None => Err((
                line["error"].as_str().unwrap().to_owned(),
                line["message"].as_str().unwrap().to_owned(),
            )),
        }
    }

    /// Calls a method of any object.
    pub fn call(
        &mut self,
        path: &str,
        method: &str,
        signature: &str,
        args: Value,
    ) -> Result<Value, CallError> {
        let (interface, member) = method.rsplit_once('.').unwrap();
        self.ask(&json!({"call": [path, interface, member, signature, args]}))
    }

    /// Calls a method of the daemon's own interface.
    pub fn daemon(&mut self, member: &str, signature: &str, args: Value) -> Result<Value, CallError> {
        self.call(PATH, &format!("{NAME}.{member}"), signature, args)
    }

    /// A property.
    pub fn get(&mut self, path: &str, property: &str) -> Result<Value, CallError> {
        let (interface, name) = property.rsplit_once('.').unwrap();
        let args = json!([interface, name]);
        let values = self.call(path, "org.freedesktop.DBus.Properties.Get", "ss", args)?;
        Ok(values[0].clone())
    }

    /// All objects that it sees.
    pub fn objects(&mut self) -> serde_json::Map<String, Value> {
        let method = "org.freedesktop.DBus.ObjectManager.GetManagedObjects";
        let all = self.call(PATH, method, "", json!([])).unwrap();
        all[0].as_object().unwrap().clone()
    }

    /// Reads a stream to its end.
    pub fn read(&mut self, stream: &Value) -> String {
        let text = self.ask(&json!({"read": stream["fd"]})).unwrap();
        text.as_str().unwrap().to_owned()
    }

    /// Waits until a job stands so.
    pub fn await_state(&mut self, job: &str, state: &str) {
        wait::until(&format!("{job} is {state}"), || {
            (self.get(job, "org.hyprstream.Job1.State").ok()? == state).then_some(())
        });
    }

    /// Waits for a signal.
    pub fn await_signal(&mut self, member: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.0
            .await_line(member, |line| line["signal"] == member && fits(line))
    }

    /// The signals that came so far and were not waited for.
    pub fn signals(&mut self) -> Vec<Value> {
        self.0.take_line(&|_| false);
        self.0.kept.clone()
    }

    /// Leaves the bus, without a farewell.
    pub fn die(self) {
        self.0.running.signal(Signal::KILL);
        drop(self);
    }
}

/// What stands in for polkit and logind.
pub struct Services(Lines);

impl Services {
    /// Has logind tell of sleep or waking.
    pub fn tell(&mut self, word: &str) {
        self.0.say(word);
    }

    /// How many inhibitors are held.
    pub fn held(&mut self) -> u64 {
        self.0.say("held");
        let line = self
            .0
            .await_line("inhibitors are counted", |line| line.get("held").is_some());
        line["held"].as_u64().unwrap()
    }

    /// The next question that polkit was asked about this action.
    pub fn await_question(&mut self, action: &str) -> Value {
        self.0.await_line(action, |line| line["action"] == action)
    }
}
