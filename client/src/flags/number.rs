//! Numbers on the command line. Invariant: what is taken can be sent as JSON, and what is not is told with what would be.

/// Any number from `LOW` to `HIGH`. JSON has no NaN and no infinity: they would be left out silently.
pub fn between<const LOW: i16, const HIGH: i16>(text: &str) -> Result<f32, String> {
    let (low, high) = (f32::from(LOW), f32::from(HIGH));
    text.parse()
        .ok()
        .filter(|value| (low..=high).contains(value))
        .ok_or_else(|| format!("expected a number from {low} to {high}"))
}

/// Any number above 0, up to `HIGH`.
pub fn above_zero<const HIGH: i16>(text: &str) -> Result<f32, String> {
    between::<0, HIGH>(text)
        .ok()
        .filter(|value| *value > 0.0)
        .ok_or_else(|| format!("expected a number above 0, to {HIGH}"))
}

/// A number of tokens.
pub fn tokens(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| whole(u32::MAX))
}

/// A token's id. Blanks around it come from a quoted list.
pub fn token_id(text: &str) -> Result<u32, String> {
    tokens(text.trim())
}

/// A seed.
pub fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| whole(u64::MAX))
}

/// How many alternatives.
pub fn top(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|top| *top <= 20)
        .ok_or_else(|| whole(20))
}

/// How often something is measured.
pub fn runs(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|runs| (1..=99).contains(runs))
        .ok_or_else(|| "expected a whole number from 1 to 99".to_owned())
}

fn whole(most: impl std::fmt::Display) -> String {
    format!("expected a whole number from 0 to {most}")
}
