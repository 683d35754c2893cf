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
use exit::Failure;
use hyprstream_client::{connect, control, http, paths, stream};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = match flags::Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) if error.use_stderr() => error.exit(),
        // Help or the version, which may find no room to be written in.
        Err(asked) => return help(&asked),
    };
    let session = commands::Session::new(flags.global);
    match commands::run(&session, flags.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            session.report(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// As clap prints it, which does not look whether that worked.
fn help(asked: &clap::Error) -> ExitCode {
    let printed = asked.print().and_then(|()| std::io::stdout().flush());
    match printed.map_err(Failure::Output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(false, None);
            ExitCode::from(failure.exit_code())
        }
    }
}
