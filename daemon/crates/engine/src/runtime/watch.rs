//! What computing took. Invariant: all that follows times asks here, so that a test can give the scheduler the times of
//! any machine.
use crate::forward::{Lane, Part};
use std::time::Instant;

/// What was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A step of so many rows.
    Step(usize),
    /// A part of a chunk of so many tokens.
    Part(Lane, Part, usize),
}

#[derive(Default)]
pub struct Watch {
    /// Seconds that work takes on another machine.
    #[cfg(test)]
    pub machine: Option<Box<dyn FnMut(Work) -> f32 + Send>>,
}

impl Watch {
    /// Seconds of work that began then and is over.
    pub fn took(&mut self, work: Work, began: Instant) -> f32 {
        #[cfg(test)]
        if let Some(machine) = &mut self.machine {
            return machine(work);
        }
        let _ = work;
        began.elapsed().as_secs_f32()
    }
}
