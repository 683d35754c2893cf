//! Writes hyp(1) from the clap table and the facts that no table has. Invariant: it depends on nothing of the machine, so the
//! committed page can be compared with it.
use crate::connect::SOCKET_VARIABLE;
use crate::exit;
use crate::flags::Flags;
use clap::CommandFactory;
use clap_mangen::Man;
use std::fmt::Write as _;
use std::io;

/// When this file's words last changed; `TH` wants a day, and the page must not depend on today's.
const DAY: &str = "2026-11-21";

const DESCRIPTION: &str = "\
hyp is the client of hyprstreamd, the service that runs language models on this machine. Nothing that is asked leaves the machine.

hyp speaks to the daemon at the socket that --socket or $HYPRSTREAM_SOCKET names, and to no other. Else it speaks to the system's \
daemon, else to the user's own. Where the system's is there but cannot be used, a line on standard error says so (not with --quiet). If neither answers, hyp starts the user's own: by systemctl --user where the unit hyprstreamd.service is \
installed, else the program hyprstreamd beside hyp or in PATH, which ends by itself ten minutes after its last request.

On a terminal, tables are aligned and control characters in answers are made visible. In a pipe, tables have no headings, columns are \
parted by tabs, numbers are exact, and an unknown value is empty. With --json, standard output has exactly what the daemon sent: a JSON \
object, or one event a line where an answer streams; only hyp bench prints an object of its own. Errors are on standard error, with --json as {\"error\": {\"code\": ..., \"message\": \
...}} on its last line; an error that comes after the answer began is the last event on standard output too. Only a wrong command line \
is always told in plain text.

Ctrl-C closes the connection, and the daemon stops the work at once.";

const CHAT: &str = "\
In a talk, a line that begins with / is a command: /help, /new (forget the talk), /model NAME, /system TEXT, /quit. Ctrl-C stops an \
answer, Ctrl-D ends the talk. Where standard input is no terminal, each line is a turn, and the first error ends the talk.";

const BENCH: &str = "\
Prompts are random tokens, none like another; answers are the likeliest tokens, without speculation. Figures are medians of the runs, with \
the lowest and the highest beside them. What cannot be taken is \"-\", and a line below the table says why. The figures:

load, first: until the model can answer, with its weights packed for this processor, which happens once. load, again: the same with what \
is packed already. prefill: tokens a second of a prompt, from the request to the first token of its answer. first token after: that time. \
decode: tokens a second of so many answers together, while all of them run. energy: joules of the processors for each of those tokens, \
where Linux counts them and the user may read it. gap of 4 streams: what 19 of 20 tokens come within after the one before; gap while so \
many are read: the same while a prompt of so many tokens comes in. memory of the daemon: its resident set, mapped files included. \
private memory: the part of that which no file stands behind.

With --json, the object has model, format, parameters, version (of the daemon), threads, isa, and figures: a list of objects with name, unit, \
median (null where there is none), runs (what each run found, in order) and missing (why there is no figure, else null).";

const ENVIRONMENT: [(&str, &str); 5] = [
    (SOCKET_VARIABLE, "The daemon's socket, as --socket names it."),
    ("XDG_RUNTIME_DIR", "Where the user's own socket lies."),
    (
        "XDG_STATE_HOME",
        "Where history and log lie; ~/.local/state if unset.",
    ),
    ("NO_COLOR", "If set, help and usage errors have no colour."),
    ("TERM", "dumb: no progress is shown."),
];

const FILES: [(&str, &str); 6] = [
    (hyprstream_protocol::SYSTEM_SOCKET, "The system daemon's socket."),
    (
        "$XDG_RUNTIME_DIR/hyprstream/hyprstream.sock",
        "The user's own daemon's socket. Its folder must belong to the user and be closed to others.",
    ),
    (
        "/tmp/hyprstream-UID/hyprstream.sock",
        "The same, where XDG_RUNTIME_DIR is not set.",
    ),
    (
        "~/.local/state/hyprstream/hyp_history",
        "What was typed in hyp chat, for the user alone.",
    ),
    (
        "~/.local/state/hyprstream/hyprstreamd.log",
        "What a daemon that hyp started wrote.",
    ),
    (
        "~/.local/share/hyprstream/models",
        "The models of the user's own daemon: GGUF files and Hugging Face folders.",
    ),
];

const EXAMPLES: [(&str, &str); 7] = [
    (
        "hyp ask \"What is hyprstream?\"",
        "Asks the default model, and starts a daemon if there is none.",
    ),
    (
        "git diff | hyp ask \"write a commit message\"",
        "Asks about a text.",
    ),
    (
        "hyp ask -m qwen3 -t 0 --seed 1 \"Count to five\"",
        "The same answer every time, from the model whose name begins with qwen3.",
    ),
    (
        "hyp chat -s \"Answer in one sentence.\"",
        "Talks, with an instruction.",
    ),
    ("hyp models | cut -f1", "The names of all models."),
    (
        "hyp score --tokens letter.txt",
        "How likely each token of a text is.",
    ),
    (
        "hyp ask --json \"hi\" | jq -j 'select(.event == \"token\").text'",
        "The events of an answer, for programs.",
    ),
];

/// Writes the page.
pub fn write(out: &mut dyn io::Write) -> io::Result<()> {
    let mut command = Flags::command();
    command.build();
    let man = Man::new(command.clone())
        .title("HYP")
        .section("1")
        .source("hyprstream")
        .manual("User Commands");
    let mut page = String::from(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
    let _ = writeln!(page, ".TH HYP 1 \"{DAY}\" \"hyprstream\" \"User Commands\"");
    page.push_str(".SH NAME\nhyp \\- ask the language models on this machine\n");
    page.push_str(".SH SYNOPSIS\n\\fBhyp\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]\n");
    page.push_str(".SH DESCRIPTION\n");
    paragraphs(&mut page, DESCRIPTION);
    page.push_str(".SH OPTIONS\n");
    page.push_str(&part(|bytes| man.render_options_section(bytes))?);
    page.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        push_command(&mut page, sub)?;
    }
    page.push_str(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in exit::CODES {
        entry(&mut page, &code.to_string(), meaning);
    }
    for (title, entries) in [
        ("ENVIRONMENT", &ENVIRONMENT[..]),
        ("FILES", &FILES),
        ("EXAMPLES", &EXAMPLES),
    ] {
        let _ = writeln!(page, ".SH {title}");
        for (name, meaning) in entries {
            entry(&mut page, name, meaning);
        }
    }
    page.push_str(".SH \"SEE ALSO\"\n");
    page.push_str("\\fBlibhyprstream\\fR(3), \\fBhyprstreamd.toml\\fR(5), ");
    page.push_str("\\fBorg.hyprstream.Daemon1\\fR(5), \\fBhyprstreamd\\fR(8)\n");
    out.write_all(page.as_bytes())
}

fn push_command(page: &mut String, sub: &clap::Command) -> io::Result<()> {
    // Flags of every command stand under OPTIONS once.
    let own = sub.clone().mut_args(|arg| {
        let hide = arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
        let arg = if hide { arg.hide(true) } else { arg };
        arg.help_heading(None::<&str>)
    });
    let man = Man::new(own.clone());
    let _ = writeln!(page, ".SS \"hyp {}\"", escape(own.get_name()));
    push_synopsis(page, &own);
    page.push_str(".PP\n");
    if let Some(about) = own.get_about() {
        let _ = writeln!(page, "{}.", escape(&about.to_string()));
    }
    page.push_str(&part(|bytes| man.render_options_section(bytes))?);
    if let Some(more) = own.get_after_help() {
        page.push_str(".PP\n");
        paragraphs(page, &more.to_string());
    }
    let more = match own.get_name() {
        "chat" => CHAT,
        "bench" => BENCH,
        _ => return Ok(()),
    };
    page.push_str(".PP\n");
    paragraphs(page, more);
    Ok(())
}

/// One line with every option, its value, and what may stand several times.
fn push_synopsis(page: &mut String, command: &clap::Command) {
    let _ = write!(page, "\\fBhyp {}\\fR", escape(command.get_name()));
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    for arg in shown()
        .filter(|arg| !arg.is_positional())
        .chain(command.get_positionals())
    {
        let short = arg.get_short().map(|short| format!("-{short}"));
        let long = arg.get_long().map(|long| format!("--{long}"));
        let names: Vec<String> = short.into_iter().chain(long).map(|name| bold(&name)).collect();
        let values = arg.get_value_names().unwrap_or_default();
        let takes = arg.get_num_args().is_some_and(|number| number.takes_values());
        let values = values
            .iter()
            .filter(|_| takes)
            .map(|name| format!("\\fI{}\\fR", escape(name)));
        let text = Some(names.join("|"))
            .filter(|names| !names.is_empty())
            .into_iter()
            .chain(values)
            .collect::<Vec<_>>()
            .join(" ");
        let text = if arg.is_required_set() {
            text
        } else {
            format!("[{text}]")
        };
        let repeats = matches!(arg.get_action(), clap::ArgAction::Append);
        let _ = write!(page, " {text}{}", if repeats { "..." } else { "" });
    }
    page.push('\n');
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

/// One section as clap_mangen writes it, without its preamble and heading.
fn part(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut bytes = Vec::new();
    render(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let own = |line: &&str| {
        ![".ie ", ".el ", ".SH "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let text = text
        .lines()
        .filter(own)
        .fold(String::new(), |all, line| all + line.trim_end() + "\n");
    // Two breaks around an empty line are one break too many for each of the two.
    Ok(text.replace(".br\n\n.br\n", ".sp\n"))
}

fn paragraphs(page: &mut String, text: &str) {
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            page.push_str(".PP\n");
        }
        page.push_str(&escape(paragraph));
        page.push('\n');
    }
}

fn entry(page: &mut String, name: &str, meaning: &str) {
    let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}", escape(name), escape(meaning));
}

/// Plain text as roff: nothing of it is taken for a command, and dashes and quotes can be copied.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.lines().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for c in line.chars() {
            match c {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '\'' => out.push_str("\\*(Aq"),
                '~' => out.push_str("\\(ti"),
                '^' => out.push_str("\\(ha"),
                '`' => out.push_str("\\(ga"),
                _ => out.push(c),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_this_one() {
        let mut page = Vec::new();
        write(&mut page).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../man/hyp.1");
        let committed = std::fs::read(path).unwrap_or_default();
        assert!(
            page == committed,
            "man/hyp.1 is old; write it anew with: cargo run --bin hyp -- man > man/hyp.1"
        );
    }

    #[test]
    fn nothing_is_taken_for_a_command() {
        assert_eq!(escape(".x\n'y -z \\"), "\\&.x\n\\&\\*(Aqy \\-z \\e");
    }
}
