//! Where messages go: to the journal when systemd reads our output, else to stderr. Invariant: no prompt and no generated
//! text is ever in a message.
use std::fs;
use std::os::linux::fs::MetadataExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Fields become `HYPR_REQUEST_ID`, `HYPR_MODEL`, `HYPR_UID`, ...
const FIELD_PREFIX: &str = "HYPR";

/// Starts to log.
pub fn start() {
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    let journal = if stderr_is_the_journal() {
        tracing_journald::layer().ok()
    } else {
        None
    };
    let started = match journal {
        Some(layer) => {
            let layer = layer.with_field_prefix(Some(FIELD_PREFIX.to_owned()));
            registry
                .with(layer.with_syslog_identifier("hyprstreamd".to_owned()))
                .try_init()
        }
        None => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(false)
                    .with_target(false),
            )
            .try_init(),
    };
    // It fails only when something has started to log before, and then messages go there.
    drop(started);
}

/// systemd.exec(5): `$JOURNAL_STREAM` holds device and inode of the journal's stream, and is inherited by programs whose
/// output goes elsewhere.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
