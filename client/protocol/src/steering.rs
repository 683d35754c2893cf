//! Characters that change how a terminal shows what stands beside them. Invariant: letters of any language are none.

/// Whether the character moves the cursor, changes the terminal (C0 and C1), or turns the direction of the text around it
/// (bidirectional embeddings, overrides and isolates), so that a name reads as another one.
pub fn is_steering(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_any_direction_are_none() {
        assert!("aé日 שלום مرحبا\u{200d}👍".chars().all(|c| !is_steering(c)));
        assert!(
            "\0\x1b\x7f\u{9b}\n\u{202a}\u{202e}\u{2066}\u{2069}"
                .chars()
                .all(is_steering)
        );
    }
}
