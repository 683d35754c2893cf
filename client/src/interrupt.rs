//! Decides what Ctrl-C does. Invariant: the connection is closed at once in either case, so that the daemon stops too.
use crate::spinner::Spinner;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ureq::Agent;

#[derive(Debug, Default)]
struct State {
    answer: Option<Agent>,
    hit: bool,
}

/// What Ctrl-C hits: the answer that [`Interrupt::guard`] holds, else the whole program.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    state: Arc<Mutex<State>>,
}

impl Interrupt {
    /// Takes over Ctrl-C for the program.
    pub fn install(spinner: Spinner) -> Self {
        let interrupt = Interrupt::default();
        let state = Arc::clone(&interrupt.state);
        let handler = move || {
            spinner.clear();
            let mut state = lock(&state);
            if let Some(agent) = state.answer.take() {
                state.hit = true;
                agent.shutdown();
                return;
            }
            if io::stderr().is_terminal() {
                let _ = io::stderr().write_all(b"\n");
            }
            // The kernel closes the connection, and the daemon sees it at once.
            std::process::exit(130);
        };
        // It fails only if set twice. Then the default stays: the signal ends the program, which closes the connection too.
        let _ = ctrlc::set_handler(handler);
        interrupt
    }

    /// From now on Ctrl-C ends this call alone.
    pub fn guard(&self, agent: Agent) {
        *lock(&self.state) = State {
            answer: Some(agent),
            hit: false,
        };
    }

    /// Ends the guard; whether Ctrl-C hit meanwhile.
    pub fn release(&self) -> bool {
        std::mem::take(&mut *lock(&self.state)).hit
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
