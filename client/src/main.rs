//! hyp, the thin client of hyprstreamd. Invariant: it knows the protocol alone; what models are and do is the daemon's.
#![forbid(unsafe_code)]

mod commands;
mod connect;
mod exit;
mod flags;
mod http;
mod input;
mod interrupt;
mod manual;
mod paths;
mod print;
mod refusal;
mod spinner;
mod start;
mod start_log;
mod stream;
mod table;
mod transport;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = flags::Flags::parse();
    let session = commands::Session::new(flags.global);
    match commands::run(&session, flags.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            session.report(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
