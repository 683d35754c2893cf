//! `hyp chat`: a talk, turn by turn. Invariant: the turns that are sent are those that were shown; a turn that failed without an
//! answer is taken back.
use super::{Session, answer};
use crate::exit::Failure;
use crate::flags::ChatFlags;
use crate::http::segment;
use crate::input::{INPUT_BYTES_MAX, InputError};
use crate::paths;
use hyprstream_protocol::{ChatRequest, Message, ModelDetail, Priority, Role};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

const HISTORY_LINES: usize = 1000;
const HELP: &str = "\
/help         this list
/new          forget the talk so far
/model NAME   go on with another model
/system TEXT  give instructions that stand above the talk; without TEXT: none
/quit         end (or Ctrl-D)
Ctrl-C stops an answer. A line with a space before its / is sent as text.";

/// Talks until the input ends.
pub fn run(session: &Session, flags: ChatFlags) -> Result<(), Failure> {
    let mut talk = Talk {
        flags,
        turns: Vec::new(),
    };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        at_terminal(session, &mut talk)
    } else {
        in_pipe(session, &mut talk)
    }
}

fn at_terminal(session: &Session, talk: &mut Talk) -> Result<(), Failure> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)
        .map_err(Failure::Terminal)?
        .build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config).map_err(Failure::Terminal)?;
    let history: Option<PathBuf> = paths::state_folder().map(|folder| folder.join("hyp_history"));
    if let Some(path) = &history {
        // There is none the first time, and a broken one is no reason not to talk.
        let _ = editor.load_history(path);
    }
    session.remark("/help lists the commands, Ctrl-D ends");
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                session.remark("Ctrl-D or /quit ends");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Failure::Terminal(error)),
        };
        if !line.trim().is_empty() && editor.add_history_entry(line.as_str()).is_ok_and(|new| new) {
            // Written at once, so that a talk that is killed loses nothing; a full disk is no reason to end one.
            let _ = history.as_ref().map(|path| editor.append_history(path));
        }
        match talk.line(session, &line) {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => return Ok(()),
            Err(failure @ Failure::Output(_)) => return Err(failure),
            Err(failure) => session.report(&failure),
        }
    }
}

fn in_pipe(session: &Session, talk: &mut Talk) -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    let name = || "standard input".to_owned();
    loop {
        let mut bytes = Vec::new();
        let read = input
            .by_ref()
            .take(INPUT_BYTES_MAX + 1)
            .read_until(b'\n', &mut bytes);
        let read = read.map_err(|source| InputError::Io { name: name(), source })?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > INPUT_BYTES_MAX {
            return Err(InputError::TooLong {
                name: format!("a line of {}", name()),
            }
            .into());
        }
        let line = String::from_utf8(bytes).map_err(|error| InputError::NotUtf8 {
            name: format!("a line of {}", name()),
            at: error.utf8_error().valid_up_to(),
        })?;
        if let Next::Quit = talk.line(session, line.trim_end_matches(['\n', '\r']))? {
            return Ok(());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    Quit,
}

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<'a> {
    Nothing,
    Turn(&'a str),
    Help,
    New,
    Model(&'a str),
    System(&'a str),
    Quit,
    Unknown(&'a str),
}

fn meaning(line: &str) -> Meaning<'_> {
    if line.trim().is_empty() {
        return Meaning::Nothing;
    }
    let Some(command) = line.strip_prefix('/') else {
        return Meaning::Turn(line.trim());
    };
    let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match (word, rest.trim()) {
        ("help" | "?", "") => Meaning::Help,
        ("new", "") => Meaning::New,
        ("quit" | "exit", "") => Meaning::Quit,
        ("model", name) => Meaning::Model(name),
        ("system", text) => Meaning::System(text),
        _ => Meaning::Unknown(word),
    }
}

struct Talk {
    flags: ChatFlags,
    turns: Vec<Message>,
}

impl Talk {
    fn line(&mut self, session: &Session, line: &str) -> Result<Next, Failure> {
        match meaning(line) {
            Meaning::Nothing => {}
            Meaning::Turn(text) => self.turn(session, text)?,
            Meaning::Help => eprintln!("{HELP}"),
            Meaning::New => {
                self.turns.clear();
                session.remark("a new talk");
            }
            Meaning::Model("") => match &self.flags.model.model {
                Some(name) => session.remark(&format!("the model is {name}")),
                None => session.remark("the model is the daemon's default one"),
            },
            Meaning::Model(name) => self.change_model(session, name)?,
            Meaning::System(text) => {
                self.flags.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                session.remark(if text.is_empty() {
                    "no instructions"
                } else {
                    "instructions are set"
                });
            }
            Meaning::Quit => return Ok(Next::Quit),
            Meaning::Unknown(word) => {
                eprintln!(
                    "hyp: there is no command /{}; /help lists them",
                    crate::control::visible(word)
                );
            }
        }
        Ok(Next::Go)
    }

    /// Asks the daemon for the full name, so that a misspelt one is told now and not with the next turn.
    fn change_model(&mut self, session: &Session, name: &str) -> Result<(), Failure> {
        let reply = session.client()?.get(&format!("/models/{}", segment(name)))?;
        session.spinner.clear();
        let detail: ModelDetail = reply.parse()?;
        session.remark(&format!("the model is {}", detail.model.name));
        self.flags.model.model = Some(detail.model.name);
        Ok(())
    }

    fn turn(&mut self, session: &Session, text: &str) -> Result<(), Failure> {
        let client = session.client()?;
        session.spinner.say("waiting for the daemon");
        self.turns.push(Message::new(Role::User, text));
        let system = self
            .flags
            .system
            .as_ref()
            .map(|text| Message::new(Role::System, text));
        let request = ChatRequest {
            model: self.flags.model.model.clone(),
            messages: system.into_iter().chain(self.turns.iter().cloned()).collect(),
            tools: Vec::new(),
            template_vars: self.flags.think.template_vars(),
            sampling: self.flags.sampling.sampling(),
            priority: Priority::default(),
        };
        let mut said = String::new();
        session.interrupt.guard(client.agent());
        let result = client
            .events("/chat", &request)
            .map_err(Failure::from)
            .and_then(|events| answer::print(session, events, &mut said));
        let stopped = session.interrupt.release();
        session.spinner.clear();
        if said.is_empty() && (stopped || result.is_err()) {
            self.turns.pop();
        } else {
            self.turns.push(Message::new(Role::Assistant, said));
        }
        if stopped {
            session.remark("stopped");
            return Ok(());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_meanings() {
        assert_eq!(meaning("  "), Meaning::Nothing);
        assert_eq!(meaning(" hello "), Meaning::Turn("hello"));
        assert_eq!(meaning(" /etc/hosts?"), Meaning::Turn("/etc/hosts?"));
        assert_eq!(meaning("/help"), Meaning::Help);
        assert_eq!(meaning("/model  qwen3 "), Meaning::Model("qwen3"));
        assert_eq!(meaning("/system Be short. "), Meaning::System("Be short."));
        assert_eq!(meaning("/new thing"), Meaning::Unknown("new"));
        assert_eq!(meaning("/etc/hosts"), Meaning::Unknown("etc/hosts"));
    }
}
