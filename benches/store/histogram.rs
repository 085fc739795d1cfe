//! Latencies, in buckets that grow with them: within 1 % of each.

const BITS: u32 = 7;
const SUB: usize = 1 << BITS;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; SUB * 64], total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, nanos: u64) {
        let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
        self.counts[(shift as usize * SUB) + (nanos >> shift) as usize] += 1;
        self.total += 1;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency below which `share` of all lie, ms.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let shift = (at / SUB).saturating_sub(1);
                let base = at - shift * SUB;
                return ((base as u64) << shift) as f64 / 1e6;
            }
        }
        f64::NAN
    }
}
