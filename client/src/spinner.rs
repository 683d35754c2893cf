//! Shows on standard error what is being waited for. Invariant: it draws only on a terminal, and its line is gone before
//! anything else is written.
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest text shown, so that it stays on one line of a narrow terminal.
const WIDTH_MAX: usize = 72;
const TICK: Duration = Duration::from_millis(100);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

#[derive(Debug, Default)]
struct State {
    text: Option<String>,
    drawn: bool,
    running: bool,
}

/// The line. Clones draw the same one.
#[derive(Clone, Debug)]
pub struct Spinner {
    state: Arc<Mutex<State>>,
    enabled: bool,
}

impl Spinner {
    /// A spinner that draws where somebody looks and did not ask for quiet.
    pub fn new(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Spinner {
            state: Arc::default(),
            enabled: !quiet && !dumb && io::stderr().is_terminal(),
        }
    }

    /// Shows `text` until it is changed or cleared.
    pub fn say(&self, text: impl Into<String>) {
        if !self.enabled {
            return;
        }
        let text: String = crate::control::one_line(&text.into())
            .chars()
            .take(WIDTH_MAX)
            .collect();
        let mut state = lock(&self.state);
        state.text = Some(text);
        if !state.running {
            state.running = true;
            let shared = Arc::clone(&self.state);
            // Without a thread it does not turn, and nothing is lost.
            let _ = std::thread::Builder::new()
                .name("spinner".to_owned())
                .spawn(move || turn(&shared));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        let mut state = lock(&self.state);
        state.text = None;
        if std::mem::take(&mut state.drawn) {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn turn(state: &Mutex<State>) {
    let mut frame = 0usize;
    loop {
        // Sleeping first keeps the line away where the answer comes at once.
        std::thread::sleep(TICK);
        let mut state = lock(state);
        let Some(text) = state.text.clone() else {
            state.running = false;
            return;
        };
        let sign = FRAMES.get(frame % FRAMES.len()).copied().unwrap_or(' ');
        state.drawn = write!(io::stderr(), "\r\x1b[K{sign} {text}").is_ok();
        frame = frame.wrapping_add(1);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
