//! The command line. Invariant: an option wins over the file; what neither says is the place's default.
use crate::config::{Config, ConfigErrors, Place};
use crate::units::parse_duration_or_never;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Serves local language models to the programs of this machine.
///
/// Without options it is the system's service: socket /run/hyprstream/hyprstream.sock, configuration
/// /etc/hyprstream/hyprstreamd.toml. Ask it with hyp(1).
#[derive(Clone, Debug, Parser)]
#[command(name = "hyprstreamd", version)]
pub struct Args {
    /// Listen at this Unix socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Look for models in this folder; may be given several times
    #[arg(long, value_name = "DIR")]
    pub models: Vec<PathBuf>,
    /// Keep what must survive a restart in this folder
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Keep what can be made again in this folder
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Read this configuration file, and the drop-ins in the folder of the same name that ends in .d
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Be the calling user's own daemon: paths in the home folder, socket in $XDG_RUNTIME_DIR
    #[arg(long)]
    pub user: bool,
    /// End when nobody asked anything for so long ("10m"), or "never"
    #[arg(long, value_name = "DUR", value_parser = idle_exit)]
    pub idle_exit: Option<IdleExit>,
    /// Check the configuration, say OK or what is wrong, and end
    #[arg(long)]
    pub check_config: bool,
    /// Have the running daemon read its configuration again, and wait until it has; what is wrong with it is said here
    #[arg(long, conflicts_with = "check_config")]
    pub reload: bool,
}

/// The value of `--idle-exit`; `None` inside is "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleExit(pub Option<Duration>);

fn idle_exit(text: &str) -> Result<IdleExit, String> {
    parse_duration_or_never(text)
        .map(IdleExit)
        .ok_or_else(|| "expected a duration such as 30s or 10m, or never".into())
}

/// Everything that is known before anything is started.
#[derive(Debug)]
pub struct Settings {
    /// The socket.
    pub socket: PathBuf,
    /// Whether this is one user's own daemon.
    pub user: bool,
    /// The configuration, with the options over it.
    pub config: Config,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Mistakes in the files.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The user has no home folder.
    #[error(
        "this user has no home folder; set $HOME, or give --socket, --models, --state and --cache without --user"
    )]
    NoHome,
    /// An option's path.
    #[error("{}: {source}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
}

impl Args {
    /// Reads the configuration and puts the options over it.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let place = if self.user {
            Place::user().ok_or(SettingsError::NoHome)?
        } else {
            Place::system()
        };
        let main = self.config.as_deref().map(absolute).transpose()?;
        let named = main.is_some();
        let mut config = Config::load(&place, &main.unwrap_or_else(|| place.config.clone()), named)?;
        if !self.models.is_empty() {
            config.storage.models = self
                .models
                .iter()
                .map(|path| absolute(path))
                .collect::<Result<_, _>>()?;
        }
        if let Some(state) = &self.state {
            config.storage.state = absolute(state)?;
        }
        if let Some(cache) = &self.cache {
            config.storage.cache = absolute(cache)?;
        }
        if let Some(IdleExit(limit)) = self.idle_exit {
            config.runtime.idle_exit = limit;
        }
        let socket = self.socket.as_deref().map(absolute).transpose()?;
        // A socket of one's own choice is for its owner, unless the superuser makes it.
        let user = self.user || (socket.is_some() && crate::config::own_uid() != 0);
        Ok(Settings {
            socket: socket.unwrap_or(place.socket),
            user,
            config,
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf, SettingsError> {
    std::path::absolute(path).map_err(|source| SettingsError::Path {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        std::fs::write(
            &file,
            "[runtime]\nidle_exit = '1m'\n[storage]\nmodels = '/a'\nstate = '/s'\n",
        )
        .unwrap();
        let args = |more: &[&str]| {
            let file = file.to_str().unwrap();
            Args::parse_from(["hyprstreamd", "--config", file].iter().chain(more))
                .settings()
                .unwrap()
        };
        let settings = args(&[]);
        assert_eq!(settings.config.storage.models, [PathBuf::from("/a")]);
        assert_eq!(settings.config.runtime.idle_exit, Some(Duration::from_secs(60)));
        let settings = args(&[
            "--models",
            "/b",
            "--models",
            "/c",
            "--idle-exit",
            "never",
            "--socket",
            "/x.sock",
        ]);
        assert_eq!(
            settings.config.storage.models,
            [PathBuf::from("/b"), PathBuf::from("/c")]
        );
        assert_eq!(settings.config.runtime.idle_exit, None);
        assert_eq!(settings.config.storage.state, Path::new("/s"));
        assert_eq!(settings.socket, Path::new("/x.sock"));
        assert!(Args::try_parse_from(["hyprstreamd", "--idle-exit", "10"]).is_err());
    }
}
