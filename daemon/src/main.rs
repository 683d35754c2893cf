//! hyprstreamd: serves local language models to every program of this machine.
//!
//! Invariant: async lives here and in no crate below; what computes is the engine's own threads.
#![deny(unsafe_code)]

mod answer;
mod app;
mod args;
mod authority;
mod catalog;
mod config;
mod dbus;
mod errors;
mod fences;
mod install;
mod ipc;
mod jobs;
mod journal;
mod lifecycle;
mod models;
mod order;
mod prompt;
mod reload;
mod said;
mod score;
mod sink;
mod units;

use args::{Args, Settings};
use clap::Parser;
use lifecycle::{Configured, Refusal};
use std::process::ExitCode;
use std::time::Duration;

/// Doors and timers need few threads; all cores belong to the engine.
const ASYNC_THREADS: usize = 2;
/// A model that is still being loaded at the end is not waited for longer than this.
const LAST_WORK: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let args = Args::parse();
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            if !args.check_config && !args.reload {
                ipc::turn_away();
            }
            return ExitCode::FAILURE;
        }
    };
    if args.check_config {
        println!("OK");
        return ExitCode::SUCCESS;
    }
    if args.reload {
        return match lifecycle::ask(&settings.socket) {
            Ok(said) => {
                println!("{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    journal::start();
    hyprstream_kernels::return_large_buffers();
    match run(args, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, settings: Settings) -> Result<(), Refusal> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .worker_threads(ASYNC_THREADS)
        .thread_name("doors")
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Afterwards the socket is the daemon's, and closed with it.
        let listening = Configured { args, settings }
            .listen()
            .inspect_err(|_| ipc::turn_away())?;
        let serving = listening.serve().await?;
        serving.run().await.finish().await;
        Ok(())
    });
    runtime.shutdown_timeout(LAST_WORK);
    result
}
