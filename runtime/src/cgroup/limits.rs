//! Writing limits.

use super::{Cgroups, write};
use crate::spec::Resources;
use std::io;
use std::path::Path;

const DEFAULT_PERIOD_US: u64 = 100_000;

fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// Version 1's 2..262144 shares as version 2's 1..10000, as runc has it since 1.3: 1024 shares are weight 100, and the
/// ends meet the ends (a quadratic through these three in logarithms).
pub(super) fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        let l = (shares as f64).log2();
        10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
    }
}

pub(super) fn unified(dir: &Path, r: &Resources) -> io::Result<()> {
    if let Some(shares) = r.cpu_shares {
        write(&dir.join("cpu.weight"), &weight(shares).to_string())?;
    }
    if r.cpu_quota_us.is_some() || r.cpu_period_us.is_some() {
        let quota = r.cpu_quota_us.map_or_else(|| "max".to_owned(), or_max);
        write(&dir.join("cpu.max"), &format!("{quota} {}", r.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)))?;
    }
    if let Some(limit) = r.memory_limit_bytes {
        write(&dir.join("memory.max"), &or_max(limit))?;
    }
    if let Some(limit) = r.pids_limit {
        write(&dir.join("pids.max"), &or_max(limit))?;
    }
    Ok(())
}

pub(super) fn version1(cgroups: &Cgroups, path: &str, r: &Resources) -> io::Result<()> {
    let set = |controller: &str, file: &str, value: String| match cgroups.dir(controller, path) {
        Some(dir) => write(&dir.join(file), &value),
        None => {
            tracing::debug!("no {controller} controller: {file} is not set");
            Ok(())
        }
    };
    if let Some(shares) = r.cpu_shares {
        set("cpu", "cpu.shares", shares.max(2).to_string())?;
    }
    if let Some(period) = r.cpu_period_us {
        set("cpu", "cpu.cfs_period_us", period.to_string())?;
    }
    if let Some(quota) = r.cpu_quota_us {
        set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
    }
    if let Some(limit) = r.memory_limit_bytes {
        set("memory", "memory.limit_in_bytes", limit.to_string())?;
    }
    if let Some(limit) = r.pids_limit {
        set("pids", "pids.max", or_max(limit))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).step_by(97).map(weight).is_sorted());
    }
}
