//! `hyp ask`: one question, one answer.
use super::{Session, answer, usage};
use crate::exit::Failure;
use crate::flags::AskFlags;
use crate::input;
use hyprstream_protocol::{ChatRequest, GenerateRequest, Message, Priority, Prompt, Role};

/// Asks and prints the answer as it comes.
pub fn run(session: &Session, flags: AskFlags) -> Result<(), Failure> {
    session.spinner.say("reading standard input");
    let text = input::question(&flags.text)?;
    session.spinner.clear();
    let Some(text) = text else {
        usage("ask", "nothing is asked: give a question, or pipe a text in");
    };
    let client = session.client()?;
    session.spinner.say("waiting for the daemon");
    let sampling = flags.sampling.sampling();
    let mut said = String::new();
    if flags.raw {
        let request = GenerateRequest {
            model: flags.model.model,
            prompt: Prompt::Text(text),
            echo: false,
            sampling,
            priority: Priority::default(),
        };
        return answer::print(session, client.events("/generate", &request)?, &mut said);
    }
    let system = flags.system.map(|text| Message::new(Role::System, text));
    let request = ChatRequest {
        model: flags.model.model,
        messages: system
            .into_iter()
            .chain([Message::new(Role::User, text)])
            .collect(),
        tools: Vec::new(),
        template_vars: flags.think.template_vars(),
        sampling,
        priority: Priority::default(),
    };
    answer::print(session, client.events("/chat", &request)?, &mut said)
}
