//! The command line: one table from which parsing, help, completions and the man page come. Invariant: a flag that is taken
//! is used, and a wrong one is refused here.
mod number;
mod sampling;

use crate::connect::named_by_environment;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
pub use sampling::{SamplingFlags, ThinkFlags};
use std::path::PathBuf;

/// Where help lists the flags of every command.
const GLOBAL: &str = "Global options";

/// `hyp`.
#[derive(Debug, Parser)]
#[command(
    name = "hyp",
    version,
    about = "Ask the language models on this machine, served by hyprstreamd",
    override_usage = "hyp [OPTIONS] COMMAND   (hyp COMMAND --help tells more)",
    help_template = "{about}\nUsage: {usage}\n{subcommands}\n{options}",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Flags {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Talk to the daemon at this socket only
    #[arg(long, value_name = "PATH", global = true, help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
    /// Print what the daemon sends, as JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Never start a daemon
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub no_start: bool,
    /// Show no progress and no remarks
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
}

impl Global {
    /// The socket that the user named, by flag or environment.
    pub fn named_socket(&self) -> Option<PathBuf> {
        self.socket.clone().or_else(named_by_environment)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a question and print the answer
    Ask(AskFlags),
    /// Talk with a model, turn by turn
    Chat(ChatFlags),
    /// List the models
    Models,
    /// List your running requests
    Ps,
    /// Bring a model into memory
    Load(NameFlags),
    /// Free a model's memory
    Unload(NameFlags),
    /// Copy a model file into the daemon's models folder
    Install(InstallFlags),
    /// Delete a model's files from the daemon's models folder
    Delete(NameFlags),
    /// Show all that is known of a model
    Show(ShowFlags),
    /// Show what the daemon is doing
    Status,
    /// Cut a text into tokens
    Tokenize(TokenizeFlags),
    /// Make text of token ids
    Detokenize(DetokenizeFlags),
    /// Tell how likely a text is to a model
    Score(ScoreFlags),
    /// Measure how fast a model is here
    #[command(after_help = "It unloads and loads the model, which takes the right to manage models.")]
    Bench(BenchFlags),
    /// Stop a running request
    Cancel(CancelFlags),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions(CompletionsFlags),
    /// Print this manual page
    #[command(hide = true)]
    Man,
    /// Print this help, or that of a command
    #[command(hide = true)]
    Help(HelpFlags),
}

/// Which model.
#[derive(Clone, Debug, Args)]
pub struct ModelFlag {
    /// Use this model (a unique beginning of its name will do)
    #[arg(short, long, value_name = "NAME", value_parser = model_name)]
    pub model: Option<String>,
}

/// `hyp ask`.
#[derive(Clone, Debug, Args)]
pub struct AskFlags {
    /// The question; what is piped in is added after a blank line
    #[arg(value_name = "TEXT", allow_negative_numbers = true)]
    pub text: Vec<String>,
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
    /// Instructions that stand above the question
    #[arg(short, long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the text as it is: no chat template, no --system
    #[arg(long)]
    pub raw: bool,
    /// Thinking.
    #[command(flatten)]
    pub think: ThinkFlags,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

/// `hyp chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatFlags {
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
    /// Instructions that stand above the talk
    #[arg(short, long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Thinking.
    #[command(flatten)]
    pub think: ThinkFlags,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

/// A variable of a script that was never set is no name.
fn named(text: &str, advice: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err(advice.to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn model_name(text: &str) -> Result<String, String> {
    named(text, "give a model's name, as hyp models shows it")
}

fn new_name(text: &str) -> Result<String, String> {
    named(text, "give the model a name, or leave it out to take the file's")
}

fn job_id(text: &str) -> Result<String, String> {
    named(text, "give a request's id, as hyp ps shows it")
}

/// `hyp load`, `hyp unload` and `hyp delete`.
#[derive(Clone, Debug, Args)]
pub struct NameFlags {
    /// The model
    #[arg(value_name = "MODEL", value_parser = model_name)]
    pub name: String,
}

/// Flags of `hyp install`.
#[derive(Debug, Args)]
pub struct InstallFlags {
    /// The GGUF file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The model's name; without it, the file's
    #[arg(value_name = "NAME", value_parser = new_name)]
    pub name: Option<String>,
}

/// `hyp show`.
#[derive(Clone, Debug, Args)]
pub struct ShowFlags {
    /// The model
    #[arg(value_name = "MODEL", value_parser = model_name)]
    pub name: String,
    /// Print its chat template alone; not with --json
    #[arg(long, conflicts_with = "json")]
    pub template: bool,
}

/// `hyp tokenize`.
#[derive(Clone, Debug, Args)]
pub struct TokenizeFlags {
    /// The text; left out or "-": standard input
    #[arg(value_name = "TEXT", allow_negative_numbers = true)]
    pub text: Vec<String>,
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
    /// Print the ids alone, on one line
    #[arg(long)]
    pub ids: bool,
    /// Do not add the tokens that start or end a text
    #[arg(long)]
    pub no_special: bool,
    /// Read <|im_start|> and the like as the tokens they name
    #[arg(long)]
    pub parse_special: bool,
}

/// `hyp detokenize`.
#[derive(Clone, Debug, Args)]
pub struct DetokenizeFlags {
    /// Token ids, apart or joined by commas
    #[arg(value_name = "IDS", required = true, value_delimiter = ',', value_parser = number::token_id, allow_negative_numbers = true)]
    pub ids: Vec<u32>,
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
}

/// `hyp score`.
#[derive(Clone, Debug, Args)]
pub struct ScoreFlags {
    /// The file; "-" is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
    /// Print each token with its log-probability
    #[arg(long)]
    pub tokens: bool,
    /// Print the N likeliest tokens in each place too (0 to 20)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number::top, allow_negative_numbers = true)]
    pub top: u8,
    /// The file holds token ids, not text
    #[arg(long)]
    pub ids: bool,
}

/// `hyp bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchFlags {
    /// Which model.
    #[command(flatten)]
    pub model: ModelFlag,
    /// Measure everything N times and print the medians (1 to 99)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number::runs, allow_negative_numbers = true)]
    pub runs: u8,
}

/// `hyp cancel`.
#[derive(Clone, Debug, Args)]
pub struct CancelFlags {
    /// The request's id, as hyp ps shows it
    #[arg(value_name = "JOB", value_parser = job_id)]
    pub job: String,
}

/// `hyp completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsFlags {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `hyp help`.
#[derive(Clone, Debug, Args)]
pub struct HelpFlags {
    /// The command
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let help = Flags::command().term_width(80).render_help().to_string();
        assert!(
            help.lines().count() <= 23,
            "{} lines:\n{help}",
            help.lines().count()
        );
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }

    #[test]
    fn numbers_are_finite() {
        let parse = |x: &str| Flags::try_parse_from(["hyp", "ask", "hi", "-t", x]);
        assert!(parse("0.5").is_ok());
        for bad in ["NaN", "inf", "1e99", "hot"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wrong_numbers_are_told_in_plain_words() {
        let said = |args: &[&str]| Flags::try_parse_from(args).unwrap_err().to_string();
        for (args, words) in [
            (
                &["hyp", "detokenize", "x"][..],
                "expected a whole number from 0 to 4294967295",
            ),
            (
                &["hyp", "detokenize", "1,-2"],
                "expected a whole number from 0 to 4294967295",
            ),
            (
                &["hyp", "ask", "hi", "--seed", "-3"],
                "expected a whole number from 0 to 18446744073709551615",
            ),
            (
                &["hyp", "ask", "hi", "--max-tokens", "1.5"],
                "expected a whole number",
            ),
            (
                &["hyp", "ask", "hi", "--top-p", "0"],
                "expected a number above 0, to 1",
            ),
            (
                &["hyp", "ask", "hi", "--top-p", "1.1"],
                "expected a number above 0, to 1",
            ),
            (&["hyp", "ask", "hi", "-t", "-1"], "expected a number from 0 to 5"),
            (
                &["hyp", "ask", "hi", "-t", "1e300"],
                "expected a number from 0 to 5",
            ),
            (
                &["hyp", "ask", "hi", "-t", "NaN"],
                "expected a number from 0 to 5",
            ),
            (
                &["hyp", "ask", "hi", "--presence-penalty", "-2.1"],
                "expected a number from -2 to 2",
            ),
            (
                &["hyp", "ask", "hi", "--repeat-penalty", "0"],
                "expected a number above 0, to 10",
            ),
            (
                &["hyp", "score", "f", "--top", "21"],
                "expected a whole number from 0 to 20",
            ),
        ] {
            assert!(said(args).contains(words), "{}", said(args));
        }
    }

    #[test]
    fn empty_names_are_no_names() {
        for (args, words) in [
            (&["hyp", "cancel", ""][..], "as hyp ps shows it"),
            (&["hyp", "delete", "--", ""], "as hyp models shows it"),
            (&["hyp", "load", " "], "as hyp models shows it"),
            (&["hyp", "unload", ""], "as hyp models shows it"),
            (&["hyp", "show", ""], "as hyp models shows it"),
            (&["hyp", "ask", "-m", "", "hi"], "as hyp models shows it"),
            (&["hyp", "bench", "--model", "\u{a0}"], "as hyp models shows it"),
            (&["hyp", "install", "m.gguf", ""], "or leave it out"),
            (&["hyp", "install", "m.gguf", " \t"], "or leave it out"),
        ] {
            let error = Flags::try_parse_from(args).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn flags_stand_anywhere() {
        let flags =
            Flags::try_parse_from(["hyp", "ask", "what", "is", "-5", "--json", "--model", "m", "?"]).unwrap();
        assert!(flags.global.json);
        let Command::Ask(ask) = flags.command else {
            panic!("not ask")
        };
        assert_eq!(ask.text.join(" "), "what is -5 ?");
        assert_eq!(ask.model.model.as_deref(), Some("m"));
    }

    #[test]
    fn the_last_word_on_thinking_counts() {
        let think = |args: &[&str]| {
            let flags = Flags::try_parse_from([&["hyp", "ask", "hi"], args].concat()).unwrap();
            let Command::Ask(ask) = flags.command else {
                panic!("not ask")
            };
            ask.think.template_vars().get("enable_thinking").cloned()
        };
        assert_eq!(think(&[]), None);
        assert_eq!(think(&["--think"]), Some(true.into()));
        assert_eq!(think(&["--think", "--no-think"]), Some(false.into()));
    }
}
