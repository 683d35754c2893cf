//! `hyp help`: the same as `--help`, for those who try that first.
use crate::exit::Failure;
use crate::flags::{Flags, HelpFlags};
use crate::print::Out;
use clap::CommandFactory;
use clap::error::ErrorKind;

/// Prints the help of hyp or of one command.
pub fn run(flags: &HelpFlags) -> Result<(), Failure> {
    let mut command = Flags::command();
    command.build();
    let help = match &flags.command {
        None => command.render_help(),
        Some(name) => match command.find_subcommand_mut(name) {
            Some(sub) => sub.render_help(),
            None => {
                let message = format!("there is no command {name:?}");
                command.error(ErrorKind::InvalidSubcommand, message).exit()
            }
        },
    };
    Out::new().text(&help.to_string())
}
