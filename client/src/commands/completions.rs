//! `hyp completions`: what the shell needs to complete `hyp`.
use crate::exit::Failure;
use crate::flags::{CompletionsFlags, Flags};
use crate::print::Out;
use clap::CommandFactory;

/// Prints the script.
pub fn run(flags: &CompletionsFlags) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Flags::command(), "hyp", &mut script);
    Out::new().text(&String::from_utf8_lossy(&script))
}
