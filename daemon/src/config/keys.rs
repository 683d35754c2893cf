//! The one table of configuration keys. Invariant: a key that is not here is refused; a value outside its range is too.
use super::{BusChoice, Config, KvCache, MemoryMax};
use crate::units;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// One key.
pub struct Key {
    /// Its section.
    pub section: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// Reads a value into the configuration, or says what is wrong with it.
    pub set: fn(&mut Config, &DeValue<'_>) -> Result<(), String>,
}

macro_rules! keys {
    ($($section:literal . $name:literal => |$config:ident, $value:ident| $place:expr, $read:expr;)*) => {
        /// Every key, in the order of the default file.
        pub const KEYS: &[Key] = &[$(Key {
            section: $section,
            name: $name,
            set: |$config, $value| {
                $place = $read?;
                Ok(())
            },
        }),*];
    };
}

keys! {
    "storage"."models" => |c, v| c.storage.models, folders(v);
    "storage"."state" => |c, v| c.storage.state, folder(v);
    "storage"."cache" => |c, v| c.storage.cache, folder(v);
    "runtime"."threads" => |c, v| c.runtime.threads, whole(v, 0, 1024);
    "runtime"."memory_max" => |c, v| c.runtime.memory_max, memory(v);
    "runtime"."kv_cache" => |c, v| c.runtime.kv_cache, kv_cache(v);
    "runtime"."kv_tokens" => |c, v| c.runtime.kv_tokens, whole(v, 32, 1 << 24);
    "runtime"."prefill_tokens_max" => |c, v| c.runtime.prefill_tokens_max, whole(v, 1, 8192);
    "runtime"."idle_unload" => |c, v| c.runtime.idle_unload, duration_or_never(v);
    "runtime"."idle_exit" => |c, v| c.runtime.idle_exit, duration_or_never(v);
    "generation"."model" => |c, v| c.generation.model, text(v).map(Some);
    "generation"."max_tokens" => |c, v| c.generation.sampling.max_tokens, whole(v, 0, 1 << 24).map(Some);
    "generation"."temperature" => |c, v| c.generation.sampling.temperature, number(v, 0.0, 5.0).map(Some);
    "generation"."top_k" => |c, v| c.generation.sampling.top_k, whole(v, 0, 1 << 24).map(Some);
    "generation"."top_p" => |c, v| c.generation.sampling.top_p, number(v, f32::MIN_POSITIVE, 1.0).map(Some);
    "generation"."min_p" => |c, v| c.generation.sampling.min_p, number(v, 0.0, 1.0).map(Some);
    "generation"."repeat_penalty" => |c, v| c.generation.sampling.repeat_penalty, number(v, f32::MIN_POSITIVE, 10.0).map(Some);
    "generation"."repeat_last" => |c, v| c.generation.sampling.repeat_last, whole(v, 0, 1 << 24).map(Some);
    "generation"."presence_penalty" => |c, v| c.generation.sampling.presence_penalty, number(v, -2.0, 2.0).map(Some);
    "generation"."frequency_penalty" => |c, v| c.generation.sampling.frequency_penalty, number(v, -2.0, 2.0).map(Some);
    "generation"."speculation" => |c, v| c.generation.sampling.speculation, truth(v).map(Some);
    "http"."body_max" => |c, v| c.http.body_max, size(v, 1 << 10, 1 << 30);
    "http"."header_timeout" => |c, v| c.http.header_timeout, duration_of_some(v);
    "tcp"."listen" => |c, v| c.tcp.listen, addresses(v);
    "tcp"."insecure" => |c, v| c.tcp.insecure, truth(v);
    "tcp"."tokens" => |c, v| c.tcp.tokens, file(v);
    "tcp"."hosts" => |c, v| c.tcp.hosts, hosts(v);
    "dbus"."bus" => |c, v| c.dbus.bus, bus(v);
    "limits"."queue_max" => |c, v| c.limits.queue_max, whole(v, 1, 65536);
    "limits"."sequences_max" => |c, v| c.limits.sequences_max, whole(v, 1, 128);
    "limits"."user_requests_max" => |c, v| c.limits.user_requests_max, whole(v, 1, 65536);
    "limits"."user_queued_tokens_max" => |c, v| c.limits.user_queued_tokens_max, whole(v, 1, 1 << 30);
    "limits"."user_kv_memory" => |c, v| c.limits.user_kv_memory, memory(v);
    "limits"."stall" => |c, v| c.limits.stall, duration_of_some(v);
    "limits"."drain" => |c, v| c.limits.drain, duration(v);
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        other => format!("a value of type {}", other.type_str()),
    }
}

fn expected<T>(what: &str, value: &DeValue<'_>) -> Result<T, String> {
    Err(format!("expected {what}, found {}", found(value)))
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
}

fn whole<T: TryFrom<i64>>(value: &DeValue<'_>, low: i64, high: i64) -> Result<T, String> {
    let number = integer(value).filter(|number| (low..=high).contains(number));
    match number.and_then(|number| T::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => expected(&format!("a whole number from {low} to {high}"), value),
    }
}

fn number(value: &DeValue<'_>, low: f32, high: f32) -> Result<f32, String> {
    let number = match value {
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f32>().ok(),
        _ => integer(value).map(|number| number as f32),
    };
    match number.filter(|number| (low..=high).contains(number)) {
        Some(number) => Ok(number),
        None if low == f32::MIN_POSITIVE => expected(&format!("a number above 0, to {high}"), value),
        None => expected(&format!("a number from {low} to {high}"), value),
    }
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value.as_str().filter(|text| !text.is_empty()) {
        Some(text) => Ok(text.to_owned()),
        None => expected("a text that is not empty", value),
    }
}

fn folder(value: &DeValue<'_>) -> Result<PathBuf, String> {
    match path(value) {
        Some(path) => Ok(path),
        None => expected(
            "the absolute path of a folder (\"~/\" stands for your home)",
            value,
        ),
    }
}

fn file(value: &DeValue<'_>) -> Result<PathBuf, String> {
    match path(value) {
        Some(path) => Ok(path),
        None => expected("the absolute path of a file (\"~/\" stands for your home)", value),
    }
}

fn path(value: &DeValue<'_>) -> Option<PathBuf> {
    let path = value.as_str().and_then(|text| match text.strip_prefix("~/") {
        Some(rest) => std::env::home_dir().map(|home| home.join(rest)),
        None => Some(PathBuf::from(text)),
    });
    path.filter(|path| path.is_absolute())
}

/// What one value or a list of them reads as.
fn list<T>(value: &DeValue<'_>, one: fn(&DeValue<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value.as_array() {
        None => one(value).map(|one| vec![one]),
        Some(list) => list.iter().map(|item| one(item.get_ref())).collect(),
    }
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<SocketAddr>, String> {
    list(value, address)
}

fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let Some(address) = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok()) else {
        return expected("an address with a port, such as \"127.0.0.1:11435\"", value);
    };
    Ok(address)
}

fn hosts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    list(value, host)
}

fn host(value: &DeValue<'_>) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match value
        .as_str()
        .filter(|text| !text.is_empty() && text.bytes().all(fits))
    {
        Some(text) => Ok(text.to_owned()),
        None => expected("a host name without port, such as \"llm.example.org\"", value),
    }
}

fn folders(value: &DeValue<'_>) -> Result<Vec<PathBuf>, String> {
    match value.as_array() {
        None => folder(value).map(|folder| vec![folder]),
        Some(list) if list.is_empty() => expected("one folder or more", value),
        Some(list) => list.iter().map(|item| folder(item.get_ref())).collect(),
    }
}

fn truth(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(truth) => Ok(*truth),
        _ => expected("true or false", value),
    }
}

fn memory(value: &DeValue<'_>) -> Result<MemoryMax, String> {
    let plain = || integer(value).and_then(|bytes| MemoryMax::parse(&bytes.to_string()));
    match value.as_str().and_then(MemoryMax::parse).or_else(plain) {
        Some(memory) => Ok(memory),
        None => expected("a size (\"8GiB\") or a share of the memory (\"75%\")", value),
    }
}

fn kv_cache(value: &DeValue<'_>) -> Result<KvCache, String> {
    match value.as_str() {
        Some("f16") => Ok(KvCache::F16),
        Some("f32") => Ok(KvCache::F32),
        Some("q8") => Ok(KvCache::Q8),
        _ => expected("\"f16\", \"f32\" or \"q8\"", value),
    }
}

fn bus(value: &DeValue<'_>) -> Result<BusChoice, String> {
    match value.as_str() {
        Some("auto") => Ok(BusChoice::Auto),
        Some("system") => Ok(BusChoice::System),
        Some("session") => Ok(BusChoice::Session),
        Some("off") => Ok(BusChoice::Off),
        _ => expected("\"auto\", \"system\", \"session\" or \"off\"", value),
    }
}

fn size(value: &DeValue<'_>, low: u64, high: u64) -> Result<u64, String> {
    let bytes = value
        .as_str()
        .and_then(units::parse_size)
        .or_else(|| integer(value)?.try_into().ok());
    match bytes.filter(|bytes| (low..=high).contains(bytes)) {
        Some(bytes) => Ok(bytes),
        None => {
            let range = format!("from {} to {}", units::show_size(low), units::show_size(high));
            expected(&format!("a size {range}, such as \"8MiB\""), value)
        }
    }
}

fn duration(value: &DeValue<'_>) -> Result<Duration, String> {
    match value.as_str().and_then(units::parse_duration) {
        Some(duration) => Ok(duration),
        None => expected("a duration such as \"500ms\", \"30s\" or \"10m\"", value),
    }
}

/// A time that something may take: a client that is cut off at once cannot be served.
fn duration_of_some(value: &DeValue<'_>) -> Result<Duration, String> {
    match duration(value)? {
        some if some >= Duration::from_millis(10) => Ok(some),
        _ => expected("a duration of 10ms at least", value),
    }
}

fn duration_or_never(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    match value.as_str().and_then(units::parse_duration_or_never) {
        Some(duration) => Ok(duration),
        None => expected("a duration such as \"30s\" or \"10m\", or \"never\"", value),
    }
}
