//! Pictures of distributions: one row a contender, every round a dot, or every so many-th of very many, time on a log axis. Written by hand as SVG, because a
//! plotting crate would be larger than the benchmark.

use std::fmt::Write as _;

use super::report::quantile;

/// One row of dots.
pub(crate) struct Row {
    /// Rows of one group stand together under its name.
    pub(crate) group: String,
    pub(crate) label: String,
    /// Milliseconds, sorted.
    pub(crate) values: Vec<f64>,
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 60.0;
const ROW: f64 = 30.0;
const GROUP: f64 = 28.0;
/// Dots of a row; more can't be told apart, and make a picture of megabytes.
const DOTS: usize = 250;

/// The logarithmic axis: powers of ten of a millisecond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    /// 1 ms to 100 s.
    pub(crate) const LONG: Self = Self { from: 0, to: 5 };
    /// 1 ms to 10 s.
    pub(crate) const MIDDLE: Self = Self { from: 0, to: 4 };
    /// 1 µs to 100 ms.
    pub(crate) const SHORT: Self = Self { from: -3, to: 2 };

    /// Where a number of milliseconds lies.
    fn x(self, milliseconds: f64) -> f64 {
        let (first, last) = (f64::from(self.from), f64::from(self.to));
        let at = (milliseconds.max(1e-9).log10().clamp(first, last) - first) / (last - first);
        LEFT + at * (WIDTH - LEFT - RIGHT)
    }
}

fn spoken(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// The picture of some rows, with a line where the floor is.
pub(crate) fn log_rows(scale: Axis, title: &str, rows: &[Row], floor: Option<f64>) -> String {
    let mut body = String::new();
    let (mut y, mut group) = (TOP, "");
    for row in rows {
        if row.group != group {
            group = &row.group;
            y += GROUP;
            text(&mut body, 12.0, y - 6.0, "start", "g", group);
        }
        dots(&mut body, scale, row, y);
        y += ROW;
    }
    let bottom = y + 4.0;
    let mut svg = String::new();
    let height = bottom + 34.0;
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.g{{font-weight:bold}}.t{{font-size:15px;font-weight:bold}}.a{{fill:#777}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>"
    );
    text(&mut svg, 12.0, 24.0, "start", "t", title);
    axis(&mut svg, scale, bottom);
    if let Some(floor) = floor {
        let at = scale.x(floor);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#2a7\" stroke-dasharray=\"4 3\"/>"
        );
        text(&mut svg, at, TOP - 6.0, "middle", "a", &format!("floor {}", spoken(floor)));
    }
    svg + &body + "</svg>\n"
}

fn axis(svg: &mut String, scale: Axis, bottom: f64) {
    for decade in scale.from..=scale.to {
        let milliseconds = 10_f64.powi(decade);
        let at = scale.x(milliseconds);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
        );
        let label = match decade {
            ..0 => format!("{:.0} µs", milliseconds * 1000.0),
            0..3 => format!("{milliseconds:.0} ms"),
            3.. => format!("{:.0} s", milliseconds / 1000.0),
        };
        text(svg, at, bottom + 18.0, "middle", "a", &label);
    }
}

fn dots(svg: &mut String, scale: Axis, row: &Row, y: f64) {
    let middle = y + ROW / 2.0;
    text(svg, 24.0, middle + 4.0, "start", "r", &row.label);
    // They are sorted, so every so many-th shows how they lie; the longest is never left out.
    let every = row.values.len().div_ceil(DOTS).max(1);
    for (index, value) in row.values.iter().rev().step_by(every).enumerate() {
        // Spread over the row's height by the golden ratio, so that equal values stay visible.
        let jitter = (index as f64 * 0.618_034).fract() - 0.5;
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"#36c\" fill-opacity=\"0.45\"/>",
            scale.x(*value),
            middle + jitter * ROW * 0.55
        );
    }
    let (Some(half), Some(most)) = (quantile(&row.values, 0.5), quantile(&row.values, 0.99)) else { return };
    let at = scale.x(half);
    let _ = writeln!(
        svg,
        "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#c33\" stroke-width=\"2\"/>",
        y + 4.0,
        y + ROW - 4.0
    );
    let says = format!("{} / {}  (n={})", spoken(half), spoken(most), row.values.len());
    text(svg, WIDTH - RIGHT + 14.0, middle + 4.0, "start", "r", &says);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, says: &str) {
    let says = says.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{says}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_some_are_drawn_and_the_longest_among_them() {
        let values: Vec<f64> = (1..=12_345).map(f64::from).collect();
        let row = Row { group: "a".into(), label: "b".into(), values };
        let svg = log_rows(Axis::LONG, "many", &[row], None);
        let dots = svg.matches("<circle").count();
        assert!((DOTS / 2..=DOTS).contains(&dots), "{dots}");
        assert!(svg.contains(&format!("<circle cx=\"{:.1}\"", Axis::LONG.x(12_345.0))), "{svg}");
        assert!(svg.contains("(n=12345)"), "{svg}");
    }

    #[test]
    fn the_axis_is_logarithmic_and_bounded() {
        let x = |milliseconds| Axis::LONG.x(milliseconds);
        assert!(((x(10.0) - x(1.0)) - (x(1000.0) - x(100.0))).abs() < 1e-9);
        assert_eq!(x(0.0), x(1.0));
        assert_eq!(x(1e9), x(1e5));
    }

    #[test]
    fn every_round_is_a_dot_and_text_is_escaped() {
        let row = Row { group: "a<b".into(), label: "x & y".into(), values: vec![1.0, 20.0, 3000.0] };
        let svg = log_rows(Axis::LONG, "t", &[row], Some(5.0));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y") && svg.contains("floor 5.0 ms"));
    }
}
