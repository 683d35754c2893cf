//! The daemon's life as types: configured, listening, serving, draining. Invariant: each phase is made from the one
//! before, so nothing is served before it is locked, bound and loaded, and nothing is dropped before it is drained.
mod ask;
mod lock;
mod notify;
mod pressure;
mod reload;

pub use ask::reload as ask;
pub use notify::is_heard as is_service;
pub use reload::reload;

use crate::app::{Activity, App, Phase};
use crate::args::{Args, Settings};
use crate::authority::Authority;
use crate::catalog::{Catalog, Root};
use crate::config::{Config, KvCache, starter_dir};
use crate::dbus;
use crate::fences;
use crate::install;
use crate::ipc::{self, BindError, Door, Guests, Room, Socket, TcpDoor, TcpError, Tokens};
use crate::jobs::Jobs;
use crate::models::{Models, available_memory};
use hyprstream_engine::{Engine, Options, StartError};
use hyprstream_kernels::KvFormat;
use lock::{Lock, LockError};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// How often a draining daemon looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);
/// How often a daemon at work looks whether it is idle, at most.
const IDLE_LOOK_MAX: Duration = Duration::from_secs(1);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The TCP door.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// Threads or signals.
    #[error("the system does not let the daemon start: {0}")]
    System(#[from] std::io::Error),
}

/// Everything is known, nothing is started.
pub struct Configured {
    /// The command line, for reloads.
    pub args: Args,
    /// What it and the files say.
    pub settings: Settings,
}

/// The state folder and the socket are ours; clients may connect and wait.
pub struct Listening {
    args: Args,
    settings: Settings,
    lock: Lock,
    door: Door,
    tcp: TcpDoor,
}

/// Requests are answered.
pub struct Serving {
    app: Arc<App>,
    lock: Lock,
    server: JoinHandle<()>,
    tcp: Vec<JoinHandle<()>>,
    bus: Option<JoinHandle<()>>,
    unlink: Box<dyn Fn() + Send>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// New requests are refused, old ones go on.
pub struct Draining(Serving);

impl Configured {
    /// Locks the state folder and opens the socket. In the runtime, which takes signals.
    pub fn listen(self) -> Result<Listening, Refusal> {
        let Configured { args, settings } = self;
        // Taken from the system, which would end us for it: a write beyond a limit of file sizes just fails.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        // A live daemon at the socket is the better message, and comes at once. Under systemd it is systemd that listens.
        if std::env::var_os("LISTEN_FDS").is_none() {
            Door::probe(&settings.socket)?;
        }
        let state = &settings.config.storage.state;
        make_folder(state, settings.user);
        let lock = Lock::take(state)?;
        let tcp = TcpDoor::open(&settings.config.tcp)?;
        let door = Door::open(&settings.socket, settings.user)?;
        Ok(Listening {
            args,
            settings,
            lock,
            door,
            tcp,
        })
    }
}

impl Listening {
    /// Starts all parts and tells systemd.
    pub async fn serve(self) -> Result<Serving, Refusal> {
        let Listening {
            args,
            settings,
            lock,
            door,
            tcp,
        } = self;
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        let starting = tokio::spawn(notify::starting());
        let wanted = settings.config.generation.model.clone();
        let (socket, lasting) = (settings.socket.clone(), !door.is_own());
        let bus = dbus::chosen(&settings);
        // It reads the models folders, which may take a while.
        let also = tcp.in_words();
        let TcpDoor { listeners, tokens } = tcp;
        let assembling = tokio::task::spawn_blocking(move || assemble(args, &settings, tokens));
        let app = assembling.await.map_err(std::io::Error::other)??;
        starting.abort();
        let at = if lasting {
            "systemd's socket".to_owned()
        } else {
            socket.display().to_string()
        };
        let unlink = Box::new(door.unlinker());
        let router = ipc::router(&app);
        if bus == Some(dbus::Bus::System) {
            app.authority.expect_system_bus();
        }
        let bus = bus.map(|bus| tokio::spawn(dbus::serve(Arc::clone(&app), bus)));
        let guests = Guests::default();
        let tcp = listeners.into_iter().map(|listener| {
            let doorway = (listener, guests.clone());
            tokio::spawn(ipc::serve(doorway, false, router.clone(), Arc::clone(&app)))
        });
        let tcp = tcp.collect();
        let socket = Socket::new(door.listener);
        let server = tokio::spawn(ipc::serve(socket, lasting, router, Arc::clone(&app)));
        let config = app.config();
        tokio::task::spawn_blocking(move || sweep(&config));
        tokio::spawn(app.models.clone().tend());
        tokio::spawn(notify::tell(Arc::clone(&app)));
        tokio::spawn(pressure::watch(Arc::clone(&app)));
        let stats = app.engine.stats();
        tracing::info!(
            "hyprstreamd {} listens at {at}; models: {}; threads: {}, with {}",
            env!("CARGO_PKG_VERSION"),
            app.catalog.snapshot().entries.len(),
            stats.threads,
            stats.isa
        );
        if let Some(also) = also {
            tracing::info!("{also}");
        }
        if let (Some(wanted), None) = (&wanted, app.default_model()) {
            tracing::warn!("[generation] model {wanted:?} is not there (yet); requests must name a model");
        }
        Ok(Serving {
            app,
            lock,
            server,
            tcp,
            bus,
            unlink,
            terminate,
            interrupt,
            hangup,
        })
    }
}

fn assemble(args: Args, settings: &Settings, tokens: Tokens) -> Result<Arc<App>, Refusal> {
    let config = &settings.config;
    let engine = Engine::start(Options {
        threads: config.runtime.threads,
        queue_max: config.limits.queue_max,
        sequences_max: config.limits.sequences_max,
        prefill_tokens_max: config.runtime.prefill_tokens_max,
        kv_format: match config.runtime.kv_cache {
            KvCache::F32 => KvFormat::F32,
            KvCache::F16 => KvFormat::F16,
            KvCache::Q8 => KvFormat::Q8,
        },
        kv_tokens: config.runtime.kv_tokens,
        stall: config.limits.stall,
        draft_cost: None,
    })?;
    make_folder(&config.storage.cache, settings.user);
    if let Some(advice) = fences::forbidden(&config.storage.cache) {
        tracing::warn!("packed weights cannot be kept and take private memory: {advice}");
    }
    let mut roots = Vec::new();
    for path in &config.storage.models {
        make_folder(path, settings.user);
        roots.push(Root {
            path: path.clone(),
            starter: false,
        });
    }
    roots.extend(starter_dir().map(|path| Root { path, starter: true }));
    let models_dirs = roots.iter().map(|root| root.path.clone()).collect();
    let busy = {
        let engine = engine.clone();
        move || !engine.is_idle()
    };
    let catalog = Arc::new(Catalog::start(roots, &config.storage.state, busy)?);
    let budget = config.runtime.memory_max.bytes(available_memory());
    let models = Models::new(
        Arc::clone(&catalog),
        engine.clone(),
        budget,
        config.runtime.idle_unload,
        config.storage.cache.clone(),
    );
    Ok(Arc::new(App {
        settings: RwLock::new(Arc::new(config.clone())),
        args,
        reloading: tokio::sync::Mutex::default(),
        catalog,
        models,
        engine,
        jobs: Jobs::default(),
        started: Instant::now(),
        models_dirs,
        reconfigured: Notify::new(),
        phase: watch::Sender::new(Phase::Serving),
        activity: Activity::new(),
        authority: Authority::default(),
        room: Room::default(),
        tokens: RwLock::new(Arc::new(tokens)),
    }))
}

/// Takes away what the last daemon could not, where it was killed. Blocks.
fn sweep(config: &Config) {
    install::sweep(&config.storage.models);
    let swept = hyprstream_model::sweep_packed(&config.storage.cache);
    if swept.files > 0 {
        let mb = swept.bytes / 1_000_000;
        tracing::info!(
            "removed {} unfinished files ({mb} MB) of packed weights",
            swept.files
        );
    }
}

/// Makes a folder where it is missing. What needs the folder says so better than this could; a models folder is waited
/// for.
fn make_folder(path: &Path, user: bool) {
    let mode = if user { 0o700 } else { 0o755 };
    if let Err(error) = DirBuilder::new().recursive(true).mode(mode).create(path) {
        let advice = fences::advice(path, &error).map_or_else(String::new, |advice| format!("; {advice}"));
        tracing::warn!(
            "the folder {} is missing and cannot be made: {error}{advice}",
            path.display()
        );
    }
}

impl Serving {
    /// Serves until a signal comes or nobody asked anything for long enough.
    pub async fn run(mut self) -> Draining {
        let why = loop {
            tokio::select! {
                _ = self.terminate.recv() => break "asked to stop",
                _ = self.interrupt.recv() => break "interrupted",
                // A service has no terminal: there it asks for a reload (Type=notify-reload).
                _ = self.hangup.recv() => match notify::is_heard() {
                    true => drop(reload(&self.app).await),
                    false => break "its terminal was closed",
                },
                () = idle_exit(&self.app) => {
                    // Nobody connects any more to a daemon that is about to go; who wants one starts the next.
                    (self.unlink)();
                    break "nobody asked anything for a while";
                }
            }
        };
        tracing::info!("stopping: {why}");
        notify::stopping(self.app.config().limits.drain);
        self.app.phase.send_replace(Phase::Draining);
        self.app.engine.drain();
        Draining(self)
    }
}

async fn idle_exit(app: &App) {
    loop {
        // A reload may set or lift the limit.
        let Some(limit) = app.config().runtime.idle_exit else {
            app.reconfigured().await;
            continue;
        };
        if !app.is_idle() {
            app.activity.touch();
        }
        let left = limit.saturating_sub(app.activity.idle_for());
        if left.is_zero() {
            return;
        }
        // At work, the end of it is looked for; at rest, only the limit counts.
        let look = if app.is_idle() {
            left
        } else {
            (limit / 4).clamp(LOOK, IDLE_LOOK_MAX)
        };
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            () = app.reconfigured() => {}
        }
    }
}

impl Draining {
    /// Lets requests end, ends the rest, and gives everything back.
    pub async fn finish(self) {
        let Draining(mut serving) = self;
        let app = &serving.app;
        let drained = async {
            while app.jobs.len() > 0 || !app.engine.is_idle() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(app.config().limits.drain) => tracing::warn!("{} requests are cut off", app.jobs.len()),
            // Asked twice: at once.
            _ = serving.terminate.recv() => {}
            _ = serving.interrupt.recv() => {}
        }
        let engine = app.engine.clone();
        // It ends what runs with `stopping`, and joins a thread, which may take a step of the engine.
        let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
        app.phase.send_replace(Phase::Ending);
        let _ = serving.server.await;
        for door in serving.tcp {
            let _ = door.await;
        }
        if let Some(bus) = serving.bus {
            let _ = bus.await;
        }
        (serving.unlink)();
        drop(serving.lock);
        tracing::info!("stopped");
    }
}
