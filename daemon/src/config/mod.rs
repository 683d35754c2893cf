//! The configuration: what it holds, where it lies, and which file wins. Invariant: a [`Config`] exists only with every
//! value in its allowed range.
mod file;
mod keys;
mod paths;

pub use file::{ConfigError, ConfigErrors};
pub use paths::{Place, own_uid, starter_dir};

use crate::units;
use hyprstream_protocol::Sampling;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that `hyprstreamd.toml` says, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[storage]`.
    pub storage: Storage,
    /// `[runtime]`.
    pub runtime: Runtime,
    /// `[generation]`.
    pub generation: Generation,
    /// `[http]`.
    pub http: Http,
    /// `[tcp]`.
    pub tcp: Tcp,
    /// `[dbus]`.
    pub dbus: Dbus,
    /// `[limits]`.
    pub limits: Limits,
}

/// Folders.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Where models are looked for.
    pub models: Vec<PathBuf>,
    /// What must survive a restart.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}

/// Threads and memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Compute threads; 0 is one a core.
    pub threads: usize,
    /// What models may use together.
    pub memory_max: MemoryMax,
    /// Element type of the KV cache.
    pub kv_cache: KvCache,
    /// Tokens in a model's KV cache.
    pub kv_tokens: usize,
    /// Tokens in one engine step.
    pub prefill_tokens_max: usize,
    /// After how long an unused model is unloaded.
    pub idle_unload: Option<Duration>,
    /// After how long an unused daemon ends.
    pub idle_exit: Option<Duration>,
}

/// A memory budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryMax {
    /// Share of the memory this process may use, in percent.
    Percent(u8),
    /// Bytes.
    Bytes(u64),
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 8 bits, and a scale for each 32 values.
    Q8,
}

/// What requests get that do not say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Name of the default model.
    pub model: Option<String>,
    /// Every field but `seed`, `stop` and `logprobs` is set.
    pub sampling: Sampling,
}

/// Limits of the HTTP door.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Largest request body in bytes.
    pub body_max: u64,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
}

/// The TCP door.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// Where it listens; nowhere unless configured.
    pub listen: Vec<SocketAddr>,
    /// Whether that may be off loopback, though there is no TLS.
    pub insecure: bool,
    /// The file of tokens, where systemd hands over no credential.
    pub tokens: PathBuf,
    /// Names of this machine beside those of loopback.
    pub hosts: Vec<String>,
}

/// The D-Bus door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dbus {
    /// Where it is.
    pub bus: BusChoice,
}

/// A bus, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusChoice {
    /// The system's for the system service, the user's for a user's own daemon, none for any other.
    Auto,
    /// The system's.
    System,
    /// The user's own.
    Session,
    /// None.
    Off,
}

/// Limits of the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Requests that may wait.
    pub queue_max: usize,
    /// Requests of one model that run together.
    pub sequences_max: usize,
    /// Requests of one user at work, waiting ones among them.
    pub user_requests_max: usize,
    /// Prompt tokens of one user that may wait.
    pub user_queued_tokens_max: usize,
    /// What one user may have of a model's KV cache.
    pub user_kv_memory: MemoryMax,
    /// How long a client may leave its answer unread.
    pub stall: Duration,
    /// How long running requests may go on when the daemon stops.
    pub drain: Duration,
}

impl Config {
    /// The built-in values for one place.
    pub fn defaults(place: &Place) -> Config {
        Config {
            storage: Storage {
                models: vec![place.models.clone()],
                state: place.state.clone(),
                cache: place.cache.clone(),
            },
            runtime: Runtime {
                threads: 0,
                memory_max: MemoryMax::Percent(75),
                kv_cache: KvCache::F16,
                kv_tokens: 16384,
                prefill_tokens_max: 512,
                idle_unload: Some(Duration::from_secs(600)),
                idle_exit: None,
            },
            generation: Generation {
                model: None,
                sampling: default_sampling(),
            },
            http: Http {
                body_max: 8 << 20,
                header_timeout: Duration::from_secs(10),
            },
            tcp: Tcp {
                listen: Vec::new(),
                insecure: false,
                tokens: place.config.with_file_name("hyprstream.tokens"),
                hosts: Vec::new(),
            },
            dbus: Dbus { bus: BusChoice::Auto },
            limits: Limits {
                queue_max: 64,
                sequences_max: 16,
                user_requests_max: 64,
                user_queued_tokens_max: 1 << 18,
                user_kv_memory: MemoryMax::Percent(100),
                stall: Duration::from_secs(30),
                drain: Duration::from_secs(20),
            },
        }
    }

    /// Defaults, then the main file, then its drop-ins in the order of their names; all errors at once.
    ///
    /// A main file that is missing is an error only when `named` by the user.
    pub fn load(place: &Place, main: &Path, named: bool) -> Result<Config, ConfigErrors> {
        let mut config = Config::defaults(place);
        let mut errors = Vec::new();
        for (path, must_exist) in file::layers(main, named, &mut errors) {
            file::apply(&mut config, &path, must_exist, &mut errors);
        }
        if let Some(message) = config.tcp.would_be_open() {
            let (file, at) = file::where_set(main, named, "tcp", "listen");
            errors.push(ConfigError { file, at, message });
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

fn default_sampling() -> Sampling {
    Sampling {
        max_tokens: Some(1024),
        temperature: Some(0.8),
        top_k: Some(40),
        top_p: Some(0.95),
        min_p: Some(0.05),
        repeat_penalty: Some(1.0),
        repeat_last: Some(64),
        presence_penalty: Some(0.0),
        frequency_penalty: Some(0.0),
        speculation: Some(true),
        ..Sampling::default()
    }
}

impl Tcp {
    /// The addresses off loopback.
    pub fn open_to_others(&self) -> impl Iterator<Item = &SocketAddr> {
        self.listen.iter().filter(|address| !address.ip().is_loopback())
    }

    /// What is wrong with an address off loopback that nobody asked for twice.
    fn would_be_open(&self) -> Option<String> {
        let address = self.open_to_others().next().filter(|_| !self.insecure)?;
        Some(format!(
            "`tcp.listen`: {address} is not on loopback, and there is no TLS here: tokens and texts would cross the \
             network in plain. Listen on 127.0.0.1 and let a web server with TLS pass requests on (hyprstreamd.toml(5) \
             shows one), or use ssh -L; where the network itself is trusted, a VPN say, set tcp.insecure = true"
        ))
    }
}

impl MemoryMax {
    /// Reads `75%` or `8GiB`.
    pub fn parse(text: &str) -> Option<MemoryMax> {
        match text.trim().strip_suffix('%') {
            Some(percent) => {
                let percent = percent.trim().parse().ok()?;
                (1..=100)
                    .contains(&percent)
                    .then_some(MemoryMax::Percent(percent))
            }
            None => units::parse_size(text)
                .filter(|bytes| *bytes > 0)
                .map(MemoryMax::Bytes),
        }
    }

    /// The budget in bytes, where `available` is what this process may use at all.
    pub fn bytes(self, available: u64) -> u64 {
        match self {
            MemoryMax::Percent(percent) => available / 100 * u64::from(percent),
            MemoryMax::Bytes(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests;
