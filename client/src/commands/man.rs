//! `hyp man`: the manual page.
use crate::exit::Failure;
use crate::{manual, print::Out};

/// Prints it as roff.
pub fn run() -> Result<(), Failure> {
    let mut page = Vec::new();
    manual::write(&mut page).map_err(Failure::Output)?;
    Out::new().text(&String::from_utf8_lossy(&page))
}
