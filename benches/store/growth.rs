//! How cost grows with keys, clients and the size of values: three members, puts. As figures, a table and a plot.

use super::drive::Ask;
use super::harness::Harness;
use super::plot::{Line, Panel, draw};
use super::servers::{Servers, Side};
use crate::figures::Rounds;
use std::path::Path;

const MEMBERS: usize = 3;
/// Where the plot goes; docs/BENCHMARKS.md shows it.
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/store-growth.svg");

struct Axis {
    name: &'static str,
    title: &'static str,
    points: [usize; 4],
    /// Each point needs servers of its own.
    fresh: bool,
    shape: fn(Ask, usize) -> Ask,
}

const AXES: [Axis; 3] = [
    Axis {
        name: "keys",
        title: "keys (1,000 clients, 256 B)",
        points: [1_000, 10_000, 100_000, 1_000_000],
        fresh: true,
        shape: |ask, keys| Ask { keys, ..ask },
    },
    Axis {
        name: "clients",
        title: "clients (100,000 keys, 256 B)",
        points: [1, 10, 100, 1_000],
        fresh: false,
        shape: |ask, clients| Ask { clients, connections: clients.div_ceil(10), ..ask },
    },
    Axis {
        name: "value",
        title: "bytes of a value (1,000 keys, 32 clients)",
        points: [256, 4 << 10, 64 << 10, 1 << 20],
        fresh: true,
        shape: |ask, value_bytes| Ask { value_bytes, keys: 1_000, clients: 32, connections: 16, ..ask },
    },
];

/// Measures, prints, and (unless it was only a look) writes the plot.
pub fn run(harness: &mut Harness, plot: bool) {
    let mut rounds = Rounds::default();
    for axis in &AXES {
        for side in [Side::Orchd, Side::Etcd].into_iter().filter(|side| harness.sides.contains(side)) {
            measure(harness, axis, side, &mut rounds);
        }
    }
    table(&rounds);
    if plot {
        let panels: Vec<Panel> = AXES.iter().map(|axis| panel(axis, &rounds)).collect();
        std::fs::write(PLOT, draw("Puts a second, three members on one machine of two cores", &panels)).expect("the plot can be written");
        println!("{} is written", Path::new(PLOT).display());
    }
}

fn measure(harness: &Harness, axis: &Axis, side: Side, rounds: &mut Rounds) {
    let mut servers = None;
    for point in axis.points {
        let ask = (axis.shape)(harness.ask("put", 1000, 100), point.min(harness.size.million.max(1 << 20)));
        let held = match servers.take().filter(|_| !axis.fresh) {
            Some(held) => held,
            None => {
                let held = Servers::start(side, MEMBERS, 0);
                harness.fill(&held, &ask);
                held
            }
        };
        held.drive(&ask, &format!("growth_{}_{point}", axis.name), rounds);
        servers = Some(held);
    }
}

fn table(rounds: &Rounds) {
    println!("| | orchd puts/s | p99 ms | CPU ms per 1,000 | etcd puts/s | p99 ms | CPU ms per 1,000 |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for axis in &AXES {
        for point in axis.points {
            let cell = |side: &str, what: &str| {
                let value = rounds.median(&format!("{side}_growth_{}_{point}_{what}", axis.name));
                value.map_or("".to_owned(), |v| if v < 10.0 { format!("{v:.2}") } else { format!("{v:.0}") })
            };
            let cells: Vec<String> =
                ["orchd", "etcd"].iter().flat_map(|side| ["rate", "p99", "cpu"].map(|what| cell(side, what))).collect();
            println!("| {} {point} | {} |", axis.name, cells.join(" | "));
        }
    }
}

fn panel(axis: &Axis, rounds: &Rounds) -> Panel {
    let line = |side: &'static str| {
        let value = |point: usize| rounds.median(&format!("{side}_growth_{}_{point}_rate", axis.name));
        Line { name: side, points: axis.points.iter().filter_map(|point| Some((*point as f64, value(*point)?))).collect() }
    };
    Panel { title: axis.title, lines: vec![line("orchd"), line("etcd")] }
}
