//! The instruction set that `HYPRSTREAM_ISA` names. Invariant: it changes the speed, and neither the answer nor the packed
//! weights.
use hyprstream_tests::{Daemon, wait};
use std::fs;

const VARIABLE: &str = "HYPRSTREAM_ISA";
const LEVELS: [&str; 5] = ["scalar", "avx2", "avx512", "vnni", "amx"];

fn answer(daemon: &Daemon) -> String {
    let args = [
        "ask",
        "--max-tokens",
        "24",
        "--temperature",
        "0",
        "once upon a time",
    ];
    daemon.hyp(args).ok()
}

/// What the daemon says that it computes with.
fn level(daemon: &Daemon) -> String {
    let status = daemon.hyp(["status", "--json"]).json();
    let level = status["isa"].as_str().unwrap().to_owned();
    let shown = daemon.hyp(["status"]).ok();
    let line = shown.lines().find(|line| line.contains("processor")).unwrap();
    assert_eq!(line.split_whitespace().last(), Some(level.as_str()), "{line}");
    level
}

/// Whether Linux says that this processor has all of these.
fn has(flags: &[&str]) -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = cpu.lines().find(|line| line.starts_with("flags"));
    let there: Vec<&str> = line.unwrap_or("").split_whitespace().collect();
    flags.iter().all(|flag| there.contains(flag))
}

#[test]
fn a_variable_chooses_the_instruction_set_and_the_answer_stays_the_same() {
    let mut daemon = Daemon::tiny();
    daemon.restart_with(VARIABLE, "amx");
    let best = level(&daemon);
    let best = LEVELS.iter().position(|level| *level == best).unwrap();
    let expected = answer(&daemon);
    for (at, wanted) in LEVELS.into_iter().enumerate() {
        daemon.restart_with(VARIABLE, wanted);
        let from = daemon.log().len();
        assert_eq!(level(&daemon), LEVELS[at.min(best)], "{wanted} was asked for");
        assert_eq!(answer(&daemon), expected, "{wanted}");
        let log = daemon.log();
        assert!(
            log[from..].contains("packed weights from the cache folder"),
            "one layout serves all levels: {log}"
        );
        wait::until("the journal tells the level", || {
            let log = daemon.log();
            let begun = log.rsplit("listens at").next()?.lines().next()?.to_owned();
            begun
                .ends_with(&format!("with {}", LEVELS[at.min(best)]))
                .then_some(())
        });
    }
    let avx2 = has(&["avx2", "fma", "f16c"]);
    assert_eq!(avx2, best >= 1, "{}", LEVELS[best]);
    // As the manual says, an unknown name counts for nothing.
    for unknown in ["neon", "AVX2", ""] {
        daemon.restart_with(VARIABLE, unknown);
        assert_eq!(level(&daemon), LEVELS[best], "{unknown:?}");
    }
    daemon.stop();
}
