//! What the processors use, where Linux tells it (Documentation/power/powercap). Invariant: a counter that ran over once counts
//! right.
use std::fs;
use std::path::Path;

/// Where the counters of whole processors are.
const COUNTERS: &str = "/sys/class/powercap";

/// What the counters said.
#[derive(Debug)]
pub struct Meter(Vec<Counter>);

#[derive(Clone, Copy, Debug)]
struct Counter {
    microjoules: u64,
    /// The greatest value, after which it begins at 0.
    most: u64,
}

impl Meter {
    /// `None` where there are none, or not for this user.
    pub fn read() -> Option<Meter> {
        Meter::read_in(Path::new(COUNTERS))
    }

    fn read_in(folder: &Path) -> Option<Meter> {
        let mut zones: Vec<_> = fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(is_processor)
            })
            .collect();
        zones.sort();
        let counters: Option<Vec<Counter>> = zones
            .iter()
            .map(|zone| {
                let number = |name: &str| fs::read_to_string(zone.join(name)).ok()?.trim().parse().ok();
                Some(Counter {
                    microjoules: number("energy_uj")?,
                    most: number("max_energy_range_uj")?,
                })
            })
            .collect();
        counters.filter(|counters| !counters.is_empty()).map(Meter)
    }

    /// Joules since an earlier reading.
    pub fn since(&self, earlier: &Meter) -> f64 {
        let used = self.0.iter().zip(&earlier.0).map(|(now, then)| {
            let turn = if now.microjoules < then.microjoules {
                now.most
            } else {
                0
            };
            turn.saturating_add(now.microjoules)
                .saturating_sub(then.microjoules)
        });
        used.map(|microjoules| microjoules as f64 / 1e6).sum()
    }
}

/// `intel-rapl:0` is a processor (AMD's too), `intel-rapl:0:0` a part of one, and `intel-rapl-mmio:0` the same one again.
fn is_processor(name: &str) -> bool {
    let number = name.strip_prefix("intel-rapl:");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_added_up_and_counters_run_over() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Meter::read_in(folder.path()).is_none());
        let set = |zone: &str, now: u64| {
            let zone = folder.path().join(zone);
            fs::create_dir_all(&zone).unwrap();
            fs::write(zone.join("energy_uj"), format!("{now}\n")).unwrap();
            fs::write(zone.join("max_energy_range_uj"), "9000000\n").unwrap();
        };
        set("intel-rapl:0:0", 5);
        assert!(Meter::read_in(folder.path()).is_none(), "no whole processor");
        set("intel-rapl:0", 1_000_000);
        set("intel-rapl:1", 8_000_000);
        let before = Meter::read_in(folder.path()).unwrap();
        set("intel-rapl:0", 3_500_000);
        set("intel-rapl:1", 500_000);
        set("intel-rapl:0:0", 900_000);
        let after = Meter::read_in(folder.path()).unwrap();
        assert!((after.since(&before) - 4.0).abs() < 1e-9);
        fs::remove_file(folder.path().join("intel-rapl:1/energy_uj")).unwrap();
        assert!(
            Meter::read_in(folder.path()).is_none(),
            "half of it would mislead"
        );
    }
}
