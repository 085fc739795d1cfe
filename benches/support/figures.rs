//! Figures: how they are measured, kept by rounds, and printed. Knows nothing of ours.

#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "it runs orchd and its peers")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// Measurements by name, in the order of their names; one value a round.
#[derive(Default)]
pub struct Rounds(BTreeMap<String, (Vec<f64>, String)>);

/// One line of output: `figure <name> <value> <unit>`.
pub fn figure(name: &str, value: f64, unit: &str) {
    let places = if value.abs() < 10.0 { 2 } else { 0 };
    println!("figure {name} {value:.places$} {unit}");
}

/// The value below which `share` (0 to 1) of `values` lie; `values` are sorted by it and not empty.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

impl Rounds {
    /// Takes the figures out of a load's output, which ran against `side`.
    ///
    /// # Panics
    /// The load failed: its output is the text.
    pub fn run(&mut self, side: &str, mut load: Command) {
        let output = load.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{side}: {}: {text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        for line in text.lines() {
            self.take(side, line);
        }
    }

    /// Takes the figure that a line of output may be.
    pub fn take(&mut self, side: &str, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["figure", name, value, unit] = words[..] {
            self.add(&format!("{side}_{name}"), value.parse().unwrap(), unit);
        }
    }

    pub fn add(&mut self, name: &str, value: f64, unit: &str) {
        println!("round {name} {value:.2} {unit}");
        self.0.entry(name.to_owned()).or_insert_with(|| (Vec::new(), unit.to_owned())).0.push(value);
    }

    /// Prints the median of each figure, and of each one of orchd the ratio to its peer's in the same round.
    pub fn print(&self, peer: &str) {
        for (name, (values, unit)) in &self.0 {
            figure(name, percentile(&mut values.clone(), 0.5), unit);
        }
        self.print_ratios("orchd", peer);
    }

    /// Prints the median of the rounds' ratios of every figure that both sides have.
    pub fn print_ratios(&self, side: &str, peer: &str) {
        for (name, (values, _)) in &self.0 {
            let Some(what) = name.strip_prefix(side).and_then(|rest| rest.strip_prefix('_')) else { continue };
            let Some((others, _)) = self.0.get(&format!("{peer}_{what}")) else { continue };
            let mut ratios: Vec<f64> = values.iter().zip(others).map(|(ours, theirs)| ours / theirs).collect();
            figure(&format!("{what}_{side}_over_{peer}"), percentile(&mut ratios, 0.5), "ratio");
        }
    }

    /// The median of a figure, if it was measured.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|(values, _)| percentile(&mut values.clone(), 0.5))
    }
}

/// The proportional set size of processes, MiB.
pub fn pss_mib(pids: &[i32]) -> f64 {
    let of = |pid: &i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
    };
    pids.iter().map(of).sum::<f64>() / 1024.0
}

/// Waits until the machine is quiet: what one side leaves to be cleaned up (kernel threads, too) would slow the other.
///
/// # Panics
/// It does not become quiet.
pub fn settle() {
    const LOOK: Duration = Duration::from_secs(2);
    const LOOKS: usize = 45;
    const QUIET: f64 = 0.15;
    let ticks = || {
        let text = std::fs::read_to_string("/proc/stat").unwrap();
        let all: Vec<f64> = text.lines().next().unwrap().split_whitespace().skip(1).map(|t| t.parse().unwrap()).collect();
        // The fourth is idle time, the fifth waits for disks.
        (all[3], all.iter().take(8).sum::<f64>())
    };
    for _ in 0..LOOKS {
        let before = ticks();
        #[allow(clippy::disallowed_methods, reason = "a share of time takes time to measure")]
        std::thread::sleep(LOOK);
        let after = ticks();
        if 1.0 - (after.0 - before.0) / (after.1 - before.1) < QUIET {
            return;
        }
    }
    panic!("the machine does not become quiet");
}
