//! Sizes and durations as people write them: `8GiB`, `75%`, `10m`, `never`. Invariant: what is printed reads back.
use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

const DURATIONS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads `8GiB`, `1.5 GB`, `4096`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split)?;
    let scale = match unit {
        "" => 1,
        _ => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * scale as f64;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

/// Writes a size with one digit after the point, in binary units.
pub fn show_size(bytes: u64) -> String {
    let unit = SIZES.iter().take(4).rev().find(|(_, scale)| bytes >= *scale);
    match unit {
        Some((name, scale)) => format!("{:.1} {name}", bytes as f64 / *scale as f64),
        None => format!("{bytes} B"),
    }
}

/// Reads `90s`, `1h30m`, `500ms`. A number without a unit is refused, since nobody agrees on which is meant.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total_ms = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        let scale = DURATIONS.iter().find(|(name, _)| *name == unit)?.1;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = tail.trim_start();
    }
    // A year is enough for everything here, and keeps all later sums far from overflow.
    (total_ms <= 366 * 86_400_000).then(|| Duration::from_millis(total_ms))
}

/// Reads a duration or `never`. The outer `None` is an error.
pub fn parse_duration_or_never(text: &str) -> Option<Option<Duration>> {
    match text.trim() {
        "never" => Some(None),
        text => parse_duration(text).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("8GiB"), Some(8 << 30));
        assert_eq!(parse_size("1.5 MiB"), Some(3 << 19));
        assert_eq!(parse_size("10kb"), Some(10_000));
        assert_eq!(parse_size("4096"), Some(4096));
        for bad in ["", "GiB", "8GB8", "-1", "1e3", "nan", "99999999999TiB", "é"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(show_size(3 << 29), "1.5 GiB");
        assert_eq!(show_size(12), "12 B");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10m"), Some(Duration::from_secs(600)));
        assert_eq!(parse_duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration_or_never("never"), Some(None));
        for bad in ["", "10", "m", "10x", "-1s", "1.5h", "999999999999d", "é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
