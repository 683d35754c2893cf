//! Where a daemon keeps its things: as the system's service, or as one user's own. Invariant: every path is absolute.
use rustix::process::{geteuid, getuid};
use std::path::{Path, PathBuf};

/// Default paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether this is one user's own daemon.
    pub user: bool,
    /// The socket.
    pub socket: PathBuf,
    /// The models folder.
    pub models: PathBuf,
    /// What must survive a restart.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// The main configuration file.
    pub config: PathBuf,
}

impl Place {
    /// The system service's paths.
    pub fn system() -> Place {
        Place {
            user: false,
            socket: hyprstream_protocol::SYSTEM_SOCKET.into(),
            models: "/var/lib/hyprstream/models".into(),
            state: "/var/lib/hyprstream".into(),
            cache: "/var/cache/hyprstream".into(),
            config: "/etc/hyprstream/hyprstreamd.toml".into(),
        }
    }

    /// The calling user's paths; `None` when the user has no home folder.
    pub fn user() -> Option<Place> {
        let home = std::env::home_dir().filter(|home| home.is_absolute())?;
        Some(Place::user_in(&home, &|name| {
            std::env::var_os(name).map(PathBuf::from)
        }))
    }

    fn user_in(home: &Path, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Place {
        // The XDG base directory specification: a path that is not absolute is to be ignored.
        let base = |name: &str, fallback: &str| {
            variable(name)
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| home.join(fallback))
                .join("hyprstream")
        };
        let runtime_dir = variable("XDG_RUNTIME_DIR");
        let uid = getuid().as_raw();
        let socket = hyprstream_protocol::user_socket(runtime_dir.as_deref().map(Path::as_os_str), uid);
        Place {
            user: true,
            socket,
            models: base("XDG_DATA_HOME", ".local/share").join("models"),
            state: base("XDG_STATE_HOME", ".local/state"),
            cache: base("XDG_CACHE_HOME", ".cache"),
            config: base("XDG_CONFIG_HOME", ".config").join("hyprstreamd.toml"),
        }
    }
}

/// The user that this process acts as.
pub fn own_uid() -> u32 {
    geteuid().as_raw()
}

/// Where the starter model lies: beside an installed program, or in the source tree that the program was built in.
pub fn starter_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let places = [
        "../share/hyprstream/starter",
        "../../packaging/starter",
        "/usr/share/hyprstream/starter",
    ];
    places
        .iter()
        .filter_map(|place| folder.join(place).canonicalize().ok())
        .find(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_paths_follow_xdg_and_ignore_relative_values() {
        let place = Place::user_in(Path::new("/home/eve"), &|name| match name {
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            "XDG_STATE_HOME" => Some("relative".into()),
            "XDG_CACHE_HOME" => Some("/fast".into()),
            _ => None,
        });
        assert_eq!(place.socket, Path::new("/run/user/7/hyprstream/hyprstream.sock"));
        assert_eq!(
            place.models,
            Path::new("/home/eve/.local/share/hyprstream/models")
        );
        assert_eq!(place.state, Path::new("/home/eve/.local/state/hyprstream"));
        assert_eq!(place.cache, Path::new("/fast/hyprstream"));
        assert_eq!(
            place.config,
            Path::new("/home/eve/.config/hyprstream/hyprstreamd.toml")
        );
    }
}
