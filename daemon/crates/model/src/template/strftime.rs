//! `strftime_now`: the date as C's `strftime` writes it, in UTC and English.
//! Invariant: any format gives a text or an error that names the directive; dates follow the Gregorian calendar.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

/// Longest format in bytes; each directive writes at most 30.
const FORMAT_BYTES_MAX: usize = 1000;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment, taken apart.
struct Date {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// Of the year, from 1.
    day_of_year: i64,
    /// From Sunday, 0.
    weekday: usize,
    /// Of the day.
    second: i64,
    microsecond: u32,
    epoch: i64,
}

impl Date {
    /// Days to a date by the method of Howard Hinnant, "chrono-compatible low-level date algorithms".
    fn new(now: SystemTime) -> Date {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Far beyond any clock, and small enough for every sum below.
        let epoch = since.as_secs().min(1 << 40) as i64;
        let (days, second) = (epoch / 86_400, epoch % 86_400);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = ((month_from_march + 2) % 12) as usize;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let day_of_year = before.get(month).unwrap_or(&0) + day + i64::from(leap && month > 1);
        let weekday = ((days + 4) % 7) as usize;
        Date {
            year,
            month,
            day,
            day_of_year,
            weekday,
            second,
            microsecond: since.subsec_micros(),
            epoch,
        }
    }

    fn hour(&self) -> i64 {
        self.second / 3600
    }

    fn minute(&self) -> i64 {
        self.second / 60 % 60
    }
}

/// `now` in UTC by `format`.
pub(super) fn utc(now: SystemTime, format: &str) -> Result<String, Error> {
    if format.len() > FORMAT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: the format is too long",
        ));
    }
    let date = Date::new(now);
    let mut out = String::new();
    write_all(&date, format, &mut out)?;
    Ok(out)
}

fn write_all(date: &Date, format: &str, out: &mut String) -> Result<(), Error> {
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            None => out.push('%'),
            Some('-') => {
                let mut padded = String::new();
                if let Some(directive) = rest.next() {
                    write_one(date, directive, &mut padded)?;
                }
                let bare = padded.trim_start_matches(['0', ' ']);
                out.push_str(if bare.is_empty() && !padded.is_empty() {
                    "0"
                } else {
                    bare
                });
            }
            Some(directive) => write_one(date, directive, out)?,
        }
    }
    Ok(())
}

fn write_one(date: &Date, directive: char, out: &mut String) -> Result<(), Error> {
    let short = |name: &str| name.chars().take(3).collect::<String>();
    let day_name = DAYS.get(date.weekday).copied().unwrap_or_default();
    let month_name = MONTHS.get(date.month).copied().unwrap_or_default();
    let hour_12 = (date.hour() + 11) % 12 + 1;
    let week_from = |first: i64| (date.day_of_year + 6 - (date.weekday as i64 - first).rem_euclid(7)) / 7;
    let _ = match directive {
        'a' => write!(out, "{}", short(day_name)),
        'A' => write!(out, "{day_name}"),
        'b' | 'h' => write!(out, "{}", short(month_name)),
        'B' => write!(out, "{month_name}"),
        'c' => return write_all(date, "%a %b %e %H:%M:%S %Y", out),
        'C' => write!(out, "{:02}", date.year / 100),
        'd' => write!(out, "{:02}", date.day),
        'D' | 'x' => return write_all(date, "%m/%d/%y", out),
        'e' => write!(out, "{:2}", date.day),
        'f' => write!(out, "{:06}", date.microsecond),
        'F' => return write_all(date, "%Y-%m-%d", out),
        'H' => write!(out, "{:02}", date.hour()),
        'I' => write!(out, "{hour_12:02}"),
        'j' => write!(out, "{:03}", date.day_of_year),
        'k' => write!(out, "{:2}", date.hour()),
        'l' => write!(out, "{hour_12:2}"),
        'm' => write!(out, "{:02}", date.month + 1),
        'M' => write!(out, "{:02}", date.minute()),
        'n' => writeln!(out),
        'p' => write!(out, "{}", if date.hour() < 12 { "AM" } else { "PM" }),
        'P' => write!(out, "{}", if date.hour() < 12 { "am" } else { "pm" }),
        'r' => return write_all(date, "%I:%M:%S %p", out),
        'R' => return write_all(date, "%H:%M", out),
        's' => write!(out, "{}", date.epoch),
        'S' => write!(out, "{:02}", date.second % 60),
        't' => write!(out, "\t"),
        'T' | 'X' => return write_all(date, "%H:%M:%S", out),
        'u' => write!(out, "{}", (date.weekday + 6) % 7 + 1),
        'U' => write!(out, "{:02}", week_from(0)),
        'w' => write!(out, "{}", date.weekday),
        'W' => write!(out, "{:02}", week_from(1)),
        'y' => write!(out, "{:02}", date.year % 100),
        'Y' => write!(out, "{}", date.year),
        // Python's naive datetime has no zone.
        'z' | 'Z' => Ok(()),
        '%' => write!(out, "%"),
        other => {
            let message = format!("strftime_now: %{other} is not supported");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, format: &str) -> String {
        utc(UNIX_EPOCH + Duration::from_secs(seconds), format).unwrap()
    }

    // Expected by Python: datetime.fromtimestamp(n, timezone.utc).strftime(format).
    #[test]
    fn dates_read_as_in_python() {
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %j %p %I %y %U %W %w %u";
        assert_eq!(
            at(0, all),
            "1970-01-01 00:00:00 Thu Thursday Jan January 001 AM 12 70 00 00 4 4"
        );
        let leap = "2024-02-29 23:59:59 Thu Thursday Feb February 060 PM 11 24 08 09 4 4";
        assert_eq!(at(1_709_251_199, all), leap);
        let far = "2100-03-01 00:00:00 Mon Monday Mar March 060 AM 12 00 09 09 1 1";
        assert_eq!(at(4_107_542_400, all), far);
        assert_eq!(at(1_704_153_600, "%-d %e|%-m|%-H"), "2  2|1|0");
        assert_eq!(at(0, "%d %b %Y, 100%%"), "01 Jan 1970, 100%");
    }

    #[test]
    fn an_unknown_directive_is_named() {
        assert!(utc(UNIX_EPOCH, "%Q").unwrap_err().to_string().contains("%Q"));
    }
}
