//! What a request asks of the sampler, with every gap filled and every value checked.
use hyprstream_protocol::Sampling;

/// Most stop strings of a request.
pub const STOPS_MAX: usize = 16;
/// Longest stop string.
pub const STOP_BYTES_MAX: usize = 512;
/// Most alternatives that can be reported for a token.
pub const LOGPROBS_MAX: u8 = 20;

/// Checked sampling parameters; [`hyprstream_protocol::Sampling`] has the meaning of each.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Goes on where the model would end.
    pub ignore_eos: bool,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repeat_penalty: f32,
    /// 0 looks at everything.
    pub repeat_last: usize,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// Of the random numbers.
    pub seed: u64,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Whether to report log-probabilities, and how many alternatives.
    pub logprobs: Option<u8>,
    /// Whether steps may carry draft tokens; changes the speed only.
    pub speculation: bool,
}

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidSampling {
    /// The field's name.
    pub field: &'static str,
    /// What is allowed, and what was given.
    pub message: String,
}

impl SamplingParams {
    /// Fills what `wanted` leaves open from `defaults`, then from what stands for "off", and checks all of it.
    pub fn resolve(wanted: &Sampling, defaults: &Sampling) -> Result<SamplingParams, InvalidSampling> {
        let params = SamplingParams {
            max_tokens: wanted.max_tokens.or(defaults.max_tokens).unwrap_or(1024) as usize,
            ignore_eos: wanted.ignore_eos || defaults.ignore_eos,
            temperature: number(
                "temperature",
                wanted.temperature,
                defaults.temperature,
                1.0,
                0.0..=5.0,
            )?,
            top_k: wanted.top_k.or(defaults.top_k).unwrap_or(0) as usize,
            top_p: number("top_p", wanted.top_p, defaults.top_p, 1.0, 0.0..=1.0)?,
            min_p: number("min_p", wanted.min_p, defaults.min_p, 0.0, 0.0..=1.0)?,
            repeat_penalty: number(
                "repeat_penalty",
                wanted.repeat_penalty,
                defaults.repeat_penalty,
                1.0,
                0.0..=10.0,
            )?,
            repeat_last: wanted.repeat_last.or(defaults.repeat_last).unwrap_or(64) as usize,
            presence_penalty: number(
                "presence_penalty",
                wanted.presence_penalty,
                defaults.presence_penalty,
                0.0,
                -2.0..=2.0,
            )?,
            frequency_penalty: number(
                "frequency_penalty",
                wanted.frequency_penalty,
                defaults.frequency_penalty,
                0.0,
                -2.0..=2.0,
            )?,
            seed: wanted
                .seed
                .or(defaults.seed)
                .unwrap_or_else(super::random::fresh_seed),
            stop: if wanted.stop.is_empty() {
                defaults.stop.clone()
            } else {
                wanted.stop.clone()
            },
            logprobs: wanted.logprobs.or(defaults.logprobs),
            speculation: wanted.speculation.or(defaults.speculation).unwrap_or(true),
        };
        params.check()?;
        Ok(params)
    }

    fn check(&self) -> Result<(), InvalidSampling> {
        if self.top_p == 0.0 {
            return Err(invalid(
                "top_p",
                "must be above 0; for the likeliest token always, set temperature to 0",
            ));
        }
        if self.repeat_penalty == 0.0 {
            return Err(invalid("repeat_penalty", "must be above 0; 1 switches it off"));
        }
        if self.stop.len() > STOPS_MAX {
            return Err(invalid(
                "stop",
                format!("takes {STOPS_MAX} strings at most, got {}", self.stop.len()),
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(invalid("stop", "must not have an empty string in it"));
        }
        if let Some(long) = self.stop.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
            // Each token's text is compared with all of them, between the tokens of everybody.
            return Err(invalid(
                "stop",
                format!(
                    "takes strings of {STOP_BYTES_MAX} bytes at most, got one of {}",
                    long.len()
                ),
            ));
        }
        match self.logprobs {
            Some(n) if n > LOGPROBS_MAX => Err(invalid(
                "logprobs",
                format!("takes {LOGPROBS_MAX} alternatives at most, got {n}"),
            )),
            _ => Ok(()),
        }
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> InvalidSampling {
    InvalidSampling {
        field,
        message: message.into(),
    }
}

fn number(
    field: &'static str,
    wanted: Option<f32>,
    default: Option<f32>,
    off: f32,
    allowed: std::ops::RangeInclusive<f32>,
) -> Result<f32, InvalidSampling> {
    let value = wanted.or(default).unwrap_or(off);
    if allowed.contains(&value) {
        return Ok(value);
    }
    Err(invalid(
        field,
        format!(
            "must be from {} to {}, got {value}",
            allowed.start(),
            allowed.end()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_from_the_defaults() {
        let defaults = Sampling {
            temperature: Some(0.5),
            top_k: Some(7),
            ..Sampling::default()
        };
        let wanted = Sampling {
            top_k: Some(3),
            seed: Some(1),
            ..Sampling::default()
        };
        let params = SamplingParams::resolve(&wanted, &defaults).unwrap();
        assert_eq!((params.temperature, params.top_k, params.seed), (0.5, 3, 1));
        assert_eq!(
            (params.top_p, params.min_p, params.repeat_penalty),
            (1.0, 0.0, 1.0)
        );
    }

    #[test]
    fn values_out_of_range_name_their_field() {
        let cases = [
            (
                Sampling {
                    temperature: Some(-1.0),
                    ..Sampling::default()
                },
                "temperature",
            ),
            (
                Sampling {
                    temperature: Some(f32::NAN),
                    ..Sampling::default()
                },
                "temperature",
            ),
            (
                Sampling {
                    top_p: Some(0.0),
                    ..Sampling::default()
                },
                "top_p",
            ),
            (
                Sampling {
                    min_p: Some(1.5),
                    ..Sampling::default()
                },
                "min_p",
            ),
            (
                Sampling {
                    repeat_penalty: Some(0.0),
                    ..Sampling::default()
                },
                "repeat_penalty",
            ),
            (
                Sampling {
                    presence_penalty: Some(3.0),
                    ..Sampling::default()
                },
                "presence_penalty",
            ),
            (
                Sampling {
                    stop: vec![String::new()],
                    ..Sampling::default()
                },
                "stop",
            ),
            (
                Sampling {
                    stop: vec!["a".into(); 17],
                    ..Sampling::default()
                },
                "stop",
            ),
            (
                Sampling {
                    stop: vec!["b".into(), "a".repeat(STOP_BYTES_MAX + 1)],
                    ..Sampling::default()
                },
                "stop",
            ),
            (
                Sampling {
                    logprobs: Some(21),
                    ..Sampling::default()
                },
                "logprobs",
            ),
        ];
        for (wanted, field) in cases {
            assert_eq!(
                SamplingParams::resolve(&wanted, &Sampling::default())
                    .unwrap_err()
                    .field,
                field
            );
        }
    }
}
