//! The commands, one file each. Invariant: each gets its session and flags, and gives back nothing but a failure.
mod answer;
mod ask;
mod bench;
mod cancel;
mod chat;
mod completions;
mod delete;
mod detokenize;
mod help;
mod install;
mod load;
mod man;
mod models;
mod ps;
mod score;
mod show;
mod status;
mod tokenize;
mod unload;

use crate::connect::{self, Via};
use crate::exit::Failure;
use crate::flags::{Command, Flags, Global};
use crate::http::{Client, Reply};
use crate::interrupt::Interrupt;
use crate::print::Out;
use crate::spinner::Spinner;
use clap::CommandFactory;
use clap::error::ErrorKind;
use std::cell::Cell;
use std::path::PathBuf;

/// What every command works with.
#[derive(Debug)]
pub struct Session {
    /// Flags of every command.
    pub flags: Global,
    /// What is being waited for.
    pub spinner: Spinner,
    /// What Ctrl-C does.
    pub interrupt: Interrupt,
    /// How the daemon was found, once it was.
    via: Cell<Option<Via>>,
}

impl Session {
    /// Sets the terminal up; connects to nothing yet.
    pub fn new(flags: Global) -> Self {
        let spinner = Spinner::new(flags.quiet);
        let interrupt = Interrupt::install(spinner.clone());
        Session {
            flags,
            spinner,
            interrupt,
            via: Cell::new(None),
        }
    }

    /// A new connection, good for one call.
    fn client(&self) -> Result<Client, Failure> {
        Ok(self.connect()?.0)
    }

    /// The same, with the socket that it goes to.
    fn connect(&self) -> Result<(Client, PathBuf), Failure> {
        let say = |text: &str| self.spinner.say(text);
        let starting: Option<connect::Say<'_>> = if self.flags.no_start { None } else { Some(&say) };
        let opened = connect::open(self.flags.named_socket(), starting)?;
        let first = self.via.replace(Some(opened.via)).is_none();
        if let (true, false, Some(refused)) = (first, self.flags.quiet, &opened.refused) {
            self.spinner.clear();
            eprintln!("hyp: {}", refused.remark());
        }
        Ok((Client::new(opened.stream), opened.path))
    }

    /// Says on standard error what failed.
    pub fn report(&self, failure: &Failure) {
        self.spinner.clear();
        failure.report(self.flags.json, self.via.get());
    }

    /// A remark for whoever looks at the terminal.
    fn remark(&self, text: &str) {
        if !self.flags.quiet && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            eprintln!("hyp: {}", crate::control::unturned(text));
        }
    }

    /// Prints a reply: as it came with `--json`, else as `human` does.
    fn reply<T: serde::de::DeserializeOwned>(
        &self,
        reply: &Reply,
        human: impl FnOnce(&mut Out, T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.spinner.clear();
        // Read in either case: what is no reply is an error with --json too.
        let value = reply.parse()?;
        let mut out = Out::new();
        if self.flags.json {
            out.line(reply.text())
        } else {
            human(&mut out, value)
        }
    }
}

/// Does what the command line says.
pub fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ask(flags) => ask::run(session, flags),
        Command::Chat(flags) => chat::run(session, flags),
        Command::Models => models::run(session),
        Command::Ps => ps::run(session),
        Command::Load(flags) => load::run(session, flags),
        Command::Unload(flags) => unload::run(session, flags),
        Command::Install(flags) => install::run(session, &flags),
        Command::Delete(flags) => delete::run(session, &flags),
        Command::Show(flags) => show::run(session, &flags),
        Command::Status => status::run(session),
        Command::Tokenize(flags) => tokenize::run(session, flags),
        Command::Detokenize(flags) => detokenize::run(session, flags),
        Command::Score(flags) => score::run(session, flags),
        Command::Bench(flags) => bench::run(session, flags),
        Command::Cancel(flags) => cancel::run(session, &flags),
        Command::Completions(flags) => completions::run(&flags),
        Command::Man => man::run(),
        Command::Help(flags) => help::run(&flags),
    }
}

/// Ends the program as clap does for a wrong command line: what is missing, usage, exit code 2.
fn usage(name: &str, message: &str) -> ! {
    let mut command = Flags::command();
    command.build();
    let mut sub = command
        .find_subcommand_mut(name)
        .map(std::mem::take)
        .unwrap_or_default();
    sub.error(ErrorKind::MissingRequiredArgument, message).exit()
}
