//! `hyp completions`: what the shell needs to complete `hyp`.
use crate::exit::Failure;
use crate::flags::{CompletionsFlags, Flags};
use crate::print::Out;
use clap::CommandFactory;
use clap::builder::{PossibleValue, PossibleValuesParser};

/// Prints the script.
pub fn run(flags: &CompletionsFlags) -> Result<(), Failure> {
    let mut command = Flags::command();
    // The table cannot name itself: what `hyp help` takes is every command that is shown.
    let names = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let names: Vec<_> = names
        .map(|sub| PossibleValue::new(sub.get_name().to_owned()))
        .collect();
    command = command.mut_subcommand("help", |help| {
        help.mut_arg("command", |arg| {
            arg.value_parser(PossibleValuesParser::new(names))
        })
    });
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut command, "hyp", &mut script);
    Out::new().text(&String::from_utf8_lossy(&script))
}
