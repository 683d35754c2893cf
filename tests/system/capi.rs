//! libhyprstream from C: a program compiled against the committed header, beside the real daemon. Invariant: header, library,
//! pkg-config file and example fit each other as they are.
use hyprstream_tests::{Daemon, Running, fixtures, program, wait};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The library as a package installs it, and a place to compile in.
pub struct Place(TempDir);

impl Place {
    /// An empty one.
    pub fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("lib/libhyprstream.so.0");
        fs::create_dir_all(folder.path().join("lib/pkgconfig")).unwrap();
        symlink(program::built("libhyprstream.so"), &library).unwrap();
        symlink("libhyprstream.so.0", library.with_extension("")).unwrap();
        let pc = fixtures::root().join("packaging/pkgconfig/hyprstream.pc");
        fs::copy(pc, folder.path().join("lib/pkgconfig/hyprstream.pc")).unwrap();
        Place(folder)
    }

    fn lib(&self) -> PathBuf {
        self.0.path().join("lib")
    }

    /// What pkg-config says, with the header where it is in the project.
    fn pkg_config(&self, args: &[&str]) -> Option<String> {
        let include = fixtures::root().join("client/capi/include");
        let output = Command::new("pkg-config")
            .env("PKG_CONFIG_PATH", self.lib().join("pkgconfig"))
            .arg(format!("--define-variable=includedir={}", include.display()))
            .args(args)
            .arg("hyprstream")
            .output();
        match output {
            Ok(output) => {
                assert!(output.status.success(), "{output:?}");
                Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
            }
            Err(_) => None,
        }
    }

    /// Compiles a program with all warnings.
    pub fn compile(&self, source: &Path) -> PathBuf {
        let program = self.0.path().join("program");
        let flags = self.pkg_config(&["--cflags", "--libs"]).unwrap_or_else(|| {
            fixtures::skipped("hyprstream.pc: pkg-config is absent");
            let include = fixtures::root().join("client/capi/include");
            format!("-I{} -L{} -lhyprstream", include.display(), self.lib().display())
        });
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"])
            .arg(source)
            .args(["-pthread", "-o"])
            .arg(&program)
            .args(flags.split_whitespace());
        program::run(&mut cc).ok();
        program
    }

    /// A command that finds the library.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = program::command(program, self.0.path());
        command.env("LD_LIBRARY_PATH", self.lib());
        command
    }
}

fn starter() -> Option<Daemon> {
    let Some(starter) = fixtures::starter() else {
        fixtures::skipped("the C library with the starter model: it is absent");
        return None;
    };
    Some(Daemon::with(&[(starter, "s.gguf")], ""))
}

#[test]
fn the_c_example_answers_is_cancelled_and_tells_errors() {
    let Some(daemon) = starter() else { return };
    let place = Place::new();
    let example = place.compile(&fixtures::root().join("packaging/examples/ask.c"));
    let ask = |args: &[&str]| {
        let mut command = place.command(&example);
        command.arg("-s").arg(daemon.socket()).args(args);
        command
    };
    let question = "What is hyprstream?";
    let greedy = [
        "-m",
        "s",
        "-o",
        r#"{"temperature": 0, "max_tokens": 60}"#,
        question,
    ];
    let said = program::run(&mut ask(&greedy)).ok();
    let hyp = daemon
        .hyp(["ask", "-m", "s", "-t", "0", "--max-tokens", "60", question])
        .ok();
    assert_eq!(said, hyp);

    let endless = [
        "-o",
        r#"{"ignore_eos": true, "temperature": 0.5, "max_tokens": 100000}"#,
        question,
    ];
    let running = Running::start(&mut ask(&endless));
    wait::until("the answer begins", || {
        (running.output().len() > 40).then_some(())
    });
    running.signal(Signal::INT);
    let said = running.end().fails(130);
    assert_eq!(said, "ask: the call was cancelled by the caller (cancelled)\n");
    daemon.await_rest();

    let said = program::run(&mut ask(&["-m", "gpt-9", question])).fails(1);
    assert!(
        said.contains("gpt-9") && said.ends_with("(model_not_found)\n"),
        "{said}"
    );
    assert!(program::run(&mut ask(&[])).fails(2).starts_with("usage: "));
    let absent = daemon.folder().join("absent.sock");
    let mut lost = place.command(&example);
    lost.arg("-s").arg(&absent).arg(question);
    let said = program::run(&mut lost).fails(1);
    let wanted = format!("ask: no daemon answers at {}: ", absent.display());
    assert!(
        said.starts_with(&wanted) && said.ends_with("(unreachable)\n"),
        "{said}"
    );
    daemon.stop();
}

/// A socket that hangs up on everyone. It ends with the test program.
fn hangs_up(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

#[test]
fn the_c_library_keeps_its_promises() {
    let Some(daemon) = starter() else { return };
    let place = Place::new();
    let promises = place.compile(&fixtures::root().join("tests/clients/capi.c"));
    let run = |program: &str, args: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.sock");
        hangs_up(&broken);
        let mut command = place.command(Path::new(program));
        command.args(args).arg(daemon.socket()).arg("s").arg(&broken);
        let ended = program::run(command.arg(folder.path()));
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
        assert_eq!(ended.out, "all well\n");
        ended.err
    };
    assert_eq!(run(promises.to_str().unwrap(), &[]), "", "the library prints");
    daemon.await_rest();
    if Command::new("valgrind").arg("--version").output().is_err() {
        fixtures::skipped("the C library under valgrind: it is absent");
    } else {
        let checks = [
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect,possible",
        ];
        let said = run("valgrind", &[&checks[..], &[promises.to_str().unwrap()]].concat());
        assert_eq!(said, "");
    }
    daemon.stop();
}

fn words(text: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| is_wanted(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_header_declares_what_the_library_exports() {
    let header = fs::read_to_string(fixtures::root().join("client/capi/include/hyprstream.h")).unwrap();
    let declared: BTreeSet<String> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '*', '/']) && !line.starts_with("typedef"))
        .filter_map(|line| line.split_once('('))
        .flat_map(|(before, _)| words(before, |word| word.starts_with("hypr_")))
        .filter(|name| name != "hypr_code" && name != "hypr_client")
        .collect();
    let library = program::built("libhyprstream.so");
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=posix"])
        .arg(&library);
    let exported: BTreeSet<String> = program::run(&mut nm)
        .ok()
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, exported);
    assert!(exported.len() > 8, "{exported:?}");

    let mut readelf = Command::new("readelf");
    let needs = program::run(readelf.arg("--dynamic").arg(&library)).ok();
    assert!(needs.contains("Library soname: [libhyprstream.so.0]"), "{needs}");
    // Whoever writes a program reads the page.
    let page = fs::read_to_string(fixtures::root().join("man/libhyprstream.3")).unwrap();
    for name in exported
        .iter()
        .chain(&words(&header, |word| word.starts_with("HYPR_")))
    {
        assert!(
            page.contains(name.as_str()),
            "libhyprstream(3) does not have {name}"
        );
    }
}

#[test]
fn the_pkg_config_file_tells_the_version() {
    let place = Place::new();
    let Some(version) = place.pkg_config(&["--modversion"]) else {
        fixtures::skipped("hyprstream.pc: pkg-config is absent");
        return;
    };
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let system = Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", place.lib().join("pkgconfig"))
        .args(["--validate", "hyprstream"])
        .status()
        .unwrap();
    assert!(system.success());
}

#[test]
fn the_header_is_what_cbindgen_makes() {
    let capi = fixtures::root().join("client/capi");
    let place = tempfile::tempdir().unwrap();
    let made = place.path().join("hyprstream.h");
    // By cargo's own ways, since cbindgen asks cargo for the crate.
    let output = Command::new("cbindgen")
        .current_dir(&capi)
        .args(["--quiet", "--output"])
        .arg(&made)
        .output();
    let Ok(output) = output else {
        fixtures::skipped("hyprstream.h made anew: cbindgen is absent");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let (made, committed) = (
        fs::read_to_string(made).unwrap(),
        fs::read_to_string(capi.join("include/hyprstream.h")).unwrap(),
    );
    assert!(
        made == committed,
        "in client/capi: cbindgen --output include/hyprstream.h"
    );
}
