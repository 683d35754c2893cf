//! Every key can be set, every mistake is named with its place, and the packaged file says what the code does.
use super::keys::KEYS;
use super::*;
use std::fs;

const PACKAGED: &str = include_str!("../../../packaging/hyprstreamd.toml");

fn read(text: &str) -> Result<Config, Vec<String>> {
    let mut config = Config::defaults(&Place::system());
    let mut errors = Vec::new();
    file::apply_text(&mut config, Path::new("x.toml"), text, &mut errors);
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(errors.iter().map(ToString::to_string).collect())
    }
}

/// The packaged file with every `#key = value` line switched on.
fn switched_on() -> String {
    let is_setting = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(name, _)| !name.contains(' '))
    };
    let lines = PACKAGED.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn packaged_file_holds_the_defaults_and_names_every_key() {
    assert_eq!(read(PACKAGED).unwrap(), Config::defaults(&Place::system()));
    let text = switched_on();
    for key in KEYS {
        let section = text
            .split(&format!("[{}]", key.section))
            .nth(1)
            .unwrap()
            .split("\n[")
            .next()
            .unwrap();
        let named = section
            .lines()
            .any(|line| line.starts_with(&format!("{} = ", key.name)));
        assert!(
            named,
            "packaging/hyprstreamd.toml lacks {}.{}",
            key.section, key.name
        );
    }
    let mut config = read(&text).unwrap();
    assert!(config.generation.model.take().is_some());
    assert_eq!(config, Config::defaults(&Place::system()));
}

#[test]
fn values_are_read() {
    let config = read(
        "[storage]\nmodels = ['/a', '/b']\n[runtime]\nthreads = 0x10\nmemory_max = '8GiB'\nkv_cache = 'f32'\n\
         idle_unload = 'never'\n[generation]\ntop_p = 1\nspeculation = false\n[http]\nbody_max = 1_048_576",
    );
    let config = config.unwrap();
    assert_eq!(config.storage.models, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.runtime.threads, 16);
    assert_eq!(config.runtime.memory_max, MemoryMax::Bytes(8 << 30));
    assert_eq!(config.runtime.kv_cache, KvCache::F32);
    assert_eq!(config.runtime.idle_unload, None);
    assert_eq!(config.generation.sampling.top_p, Some(1.0));
    assert_eq!(config.generation.sampling.speculation, Some(false));
    assert_eq!(config.http.body_max, 1 << 20);
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let errors = read(
        "[runtime]\nthreds = 4\nthreads = 'two'\nmemory_max = '200%'\n[generation]\ntemperature = nan\n\
         [limits]\n  queue_max = 0\n[nonsense]\nx = 1\n",
    );
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), 6, "{errors:#?}");
    let has = |start: &str, word: &str| errors.iter().any(|e| e.starts_with(start) && e.contains(word));
    assert!(
        has("x.toml:2:1: unknown key `runtime.threds`", "threads"),
        "{errors:#?}"
    );
    assert!(has(
        "x.toml:3:11: `runtime.threads`: expected a whole number from 0 to 1024, found \"two\"",
        ""
    ));
    assert!(has("x.toml:4:14: `runtime.memory_max`", "200%"), "{errors:#?}");
    assert!(has("x.toml:6:15: `generation.temperature`", "nan"), "{errors:#?}");
    assert!(has("x.toml:8:15: `limits.queue_max`", "from 1"), "{errors:#?}");
    assert!(
        has("x.toml:9:2: unknown section or key `nonsense`", "[storage]"),
        "{errors:#?}"
    );
}

#[test]
fn tcp_stays_on_loopback_unless_that_is_said_twice() {
    let config = read("[tcp]\nlisten = ['127.0.0.1:11435', '[::1]:0']\nhosts = 'llm.example.org'\n").unwrap();
    assert_eq!(config.tcp.listen.len(), 2);
    assert_eq!(config.tcp.hosts, ["llm.example.org"]);
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("x.toml");
    let load = |text: String| {
        fs::write(&main, text).unwrap();
        Config::load(&Place::system(), &main, true)
    };
    for open in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
        let error = load(format!("[tcp]\nlisten = '{open}'\n"))
            .unwrap_err()
            .to_string();
        for word in [
            "x.toml:2:10: `tcp.listen`",
            open,
            "no TLS",
            "ssh -L",
            "tcp.insecure = true",
        ] {
            assert!(error.contains(word), "{error}");
        }
        let config = load(format!(
            "[tcp]\nlisten = ['127.0.0.1:1', '{open}']\ninsecure = true\n"
        ))
        .unwrap();
        assert_eq!(config.tcp.open_to_others().count(), 1);
    }
    let drop_ins = folder.path().join("x.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("tcp.toml"), "\n[tcp]\nlisten = '0.0.0.0:1'\n").unwrap();
    let error = load("[tcp]\nlisten = '127.0.0.1:1'\n".to_owned())
        .unwrap_err()
        .to_string();
    assert!(error.contains("x.d/tcp.toml:3:10: `tcp.listen`"), "{error}");
    for wrong in [
        "listen = 'localhost'",
        "listen = 11435",
        "hosts = 'a:1'",
        "tokens = 'here'",
    ] {
        assert!(read(&format!("[tcp]\n{wrong}\n")).is_err(), "{wrong}");
    }
}

#[test]
fn broken_toml_and_wrong_shapes_are_named() {
    assert!(read("[runtime\nthreads = 4").unwrap_err()[0].starts_with("x.toml:1:"));
    assert!(read("threads = 4").unwrap_err()[0].contains("unknown section or key `threads`"));
    assert!(read("runtime = 4").unwrap_err()[0].contains("must be a section"));
    assert!(read("[storage]\nmodels = ['relative']").unwrap_err()[0].contains("absolute"));
    assert!(read("[storage]\nmodels = []").unwrap_err()[0].contains("storage.models"));
    assert!(read("[runtime]\nthreads = 1\nthreads = 2").unwrap_err()[0].contains("threads"));
}

#[test]
fn drop_ins_win_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("hyprstreamd.toml");
    let drop_ins = folder.path().join("hyprstreamd.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(&main, "[runtime]\nthreads = 1\nkv_tokens = 64\n").unwrap();
    fs::write(drop_ins.join("20-b.toml"), "[runtime]\nthreads = 3\n").unwrap();
    fs::write(drop_ins.join("10-a.toml"), "[runtime]\nthreads = 2\n").unwrap();
    fs::write(drop_ins.join("README"), "not toml").unwrap();
    let config = Config::load(&Place::system(), &main, true).unwrap();
    assert_eq!((config.runtime.threads, config.runtime.kv_tokens), (3, 64));

    fs::write(drop_ins.join("30-c.toml"), "[runtime]\nthreads = -1\n").unwrap();
    let errors = Config::load(&Place::system(), &main, true).unwrap_err();
    assert!(
        errors.to_string().contains("30-c.toml:2:11: `runtime.threads`"),
        "{errors}"
    );
}

#[test]
fn a_missing_file_matters_only_when_it_was_named() {
    let missing = Path::new("/nonexistent/hyprstreamd.toml");
    assert!(Config::load(&Place::system(), missing, false).is_ok());
    let errors = Config::load(&Place::system(), missing, true).unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("/nonexistent/hyprstreamd.toml: cannot be read"),
        "{errors}"
    );
}
