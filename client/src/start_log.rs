//! What a daemon that hyp started wrote, kept so that a failed start can be explained. Invariant: the file is the user's alone
//! and does not grow without end.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Its name in the state folder.
pub const NAME: &str = "hyprstreamd.log";
/// A log larger than this is begun anew.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// What a daemon wrote before it failed.
#[derive(Debug, Default)]
pub struct Log {
    /// The whole log.
    pub path: Option<PathBuf>,
    last: Vec<String>,
}

impl Log {
    /// The lines, to stand below a message.
    pub fn quoted(&self) -> String {
        self.last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// A file that nobody else may read, made if need be.
pub fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The file that takes what the daemon writes, and where this start's part of it begins.
pub struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
    from: u64,
}

impl LogFile {
    /// Opens the log in the state folder; without one, what the daemon writes is lost.
    pub fn open(state: Option<&Path>) -> LogFile {
        let path = state.map(|folder| folder.join(NAME));
        let file = path.as_deref().and_then(|path| open_private(path).ok());
        let mut from = file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |about| about.len());
        if let Some(path) = path.as_deref()
            && from > LOG_BYTES_MAX
            && fs::rename(path, path.with_extension("log.old")).is_ok()
        {
            let file = open_private(path).ok();
            return LogFile {
                path: Some(path.to_owned()),
                file,
                from: 0,
            };
        }
        if file.is_none() {
            from = 0;
        }
        LogFile { path, file, from }
    }

    /// Where the daemon's output goes.
    pub fn stdio(&self) -> Stdio {
        match self.file.as_ref().and_then(|file| file.try_clone().ok()) {
            Some(file) => Stdio::from(file),
            None => Stdio::null(),
        }
    }

    /// The last lines that this start added.
    pub fn read(&self) -> Log {
        let last = self.tail().map(|text| last_lines(&text)).unwrap_or_default();
        Log {
            path: self.path.clone().filter(|_| self.file.is_some()),
            last,
        }
    }

    fn tail(&self) -> Option<String> {
        const TAIL_BYTES: u64 = 4096;
        let mut file = File::open(self.path.as_deref()?).ok()?;
        let end = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(self.from.max(end.saturating_sub(TAIL_BYTES))))
            .ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn last_lines(text: &str) -> Vec<String> {
    const LINES: usize = 5;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(LINES))
        .map(|line| crate::control::one_line(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_its_last_lines() {
        let text = (0..9).map(|i| format!("line {i}\n\n")).collect::<String>();
        assert_eq!(
            last_lines(&text),
            ["line 4", "line 5", "line 6", "line 7", "line 8"]
        );
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn a_log_begins_where_this_start_begins() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hyprstreamd.log"), "old\n").unwrap();
        let log = LogFile::open(Some(folder.path()));
        io::Write::write_all(&mut log.file.as_ref().unwrap(), b"new\n").unwrap();
        assert_eq!(log.read().last, ["new"]);
    }

    #[test]
    fn a_large_log_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("hyprstreamd.log"),
            vec![b'x'; LOG_BYTES_MAX as usize + 1],
        )
        .unwrap();
        let log = LogFile::open(Some(folder.path()));
        assert_eq!(log.from, 0);
        assert!(folder.path().join("hyprstreamd.log.old").exists());
        assert_eq!(
            fs::metadata(folder.path().join("hyprstreamd.log")).unwrap().len(),
            0
        );
    }
}
