//! Ends a text before a stop string. Invariant: no part of a stop string is ever let out, and text is held back only
//! while it may still become one.

/// Watches one answer.
#[derive(Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What came of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    /// This much is certain to stand before any stop string.
    Text(String),
    /// A stop string came; this stood before it.
    Stop(String),
}

impl StopMatcher {
    /// Watches for these strings; empty ones are ignored.
    pub fn new(mut stops: Vec<String>) -> StopMatcher {
        stops.retain(|s| !s.is_empty());
        StopMatcher {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: String) -> Matched {
        if self.stops.is_empty() {
            return Matched::Text(text);
        }
        self.held.push_str(&text);
        if let Some(at) = self
            .stops
            .iter()
            .filter(|stop| stop.len() <= self.held.len())
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min()
        {
            self.held.truncate(at);
            return Matched::Stop(std::mem::take(&mut self.held));
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Matched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The text that is still held back, at the end of the answer.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let (text, stop) = (text.as_bytes(), stop.as_bytes());
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&n| text[text.len() - n..] == stop[..n])
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Matched {
        Matched::Text(s.into())
    }

    #[test]
    fn holds_back_what_may_become_a_stop_string() {
        let mut m = StopMatcher::new(vec!["\n\nQ:".into(), "END".into()]);
        assert_eq!(m.push("one\n".into()), text("one"));
        assert_eq!(m.push("two E".into()), text("\ntwo "));
        assert_eq!(m.push("N".into()), text(""));
        assert_eq!(m.push("ough".into()), text("ENough"));
        assert_eq!(m.push("x\n\nQ: y".into()), Matched::Stop("x".into()));
    }

    #[test]
    fn the_earliest_of_several_wins() {
        let mut m = StopMatcher::new(vec!["c".into(), "b".into()]);
        assert_eq!(m.push("abc".into()), Matched::Stop("a".into()));
    }

    #[test]
    fn multibyte_characters_stay_whole() {
        let mut m = StopMatcher::new(vec!["é!".into()]);
        assert_eq!(m.push("caf".into()), text("caf"));
        assert_eq!(m.push("é".into()), text(""));
        assert_eq!(m.push("ê".into()), text("éê"));
    }

    #[test]
    fn what_is_held_comes_out_at_the_end() {
        let mut m = StopMatcher::new(vec!["stop".into()]);
        assert_eq!(m.push("sto".into()), text(""));
        assert_eq!(m.finish(), "sto");
    }
}
