//! A plot as SVG: panels side by side, both axes logarithmic.

use std::fmt::Write;

pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

pub struct Panel {
    pub title: &'static str,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const GAP: f64 = 50.0;
const COLORS: [&str; 2] = ["#1f6feb", "#d1570a"];

/// The decades that hold all of these values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values.fold(f64::NEG_INFINITY, f64::max).log10().ceil();
    (low, high.max(low + 1.0))
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0}M", v / 1e6),
        v if v >= 1e3 => format!("{:.0}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

pub fn draw(title: &str, panels: &[Panel]) -> String {
    let width = LEFT + panels.len() as f64 * (WIDTH + GAP);
    let height = TOP + HEIGHT + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let rates = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points).map(|(_, y)| *y);
    let vertical = decades(rates);
    for (at, panel) in panels.iter().enumerate() {
        panel_into(&mut svg, panel, LEFT + at as f64 * (WIDTH + GAP), vertical);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel_into(svg: &mut String, panel: &Panel, left: f64, (low, high): (f64, f64)) {
    let (first, last) = decades(panel.lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x));
    let x = |value: f64| left + (value.log10() - first) / (last - first) * WIDTH;
    let y = |value: f64| TOP + HEIGHT - (value.log10() - low) / (high - low) * HEIGHT;
    let mut add = |text: String| svg.write_fmt(format_args!("{text}\n")).expect("a string takes it");
    add(format!("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", left + WIDTH / 2.0, TOP + HEIGHT + 38.0, panel.title));
    for decade in low as i32..=high as i32 {
        let (value, right) = (10f64.powi(decade), left + WIDTH);
        add(format!("<path d=\"M{left:.1} {0:.1}H{right:.1}\" stroke=\"#ddd\"/>", y(value)));
        add(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", left - 6.0, y(value) + 4.0, short(value)));
    }
    for decade in first as i32..=last as i32 {
        let value = 10f64.powi(decade);
        add(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", x(value), TOP + HEIGHT + 18.0, short(value)));
    }
    for (at, line) in panel.lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
        let color = COLORS[at % COLORS.len()];
        let path: Vec<String> = line.points.iter().map(|(px, py)| format!("{:.1} {:.1}", x(*px), y(*py))).collect();
        add(format!("<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>", path.join("L")));
        for (px, py) in &line.points {
            add(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", x(*px), y(*py)));
        }
        add(format!("<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{}</text>", left + 8.0 + at as f64 * 50.0, TOP - 8.0, line.name));
    }
}
