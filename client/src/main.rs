//! hyp, the thin client of hyprstreamd. Invariant: it knows the protocol alone; what models are and do is the daemon's.
#![forbid(unsafe_code)]

mod commands;
mod exit;
mod flags;
mod input;
mod interrupt;
mod manual;
mod print;
mod spinner;
mod table;

use clap::Parser;
use hyprstream_client::{connect, control, http, paths, stream};
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
